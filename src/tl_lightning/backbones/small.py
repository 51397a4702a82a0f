"""A small convolutional network for digits and other small pictures."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from tl_lightning.errors import ConfigError
from tl_lightning.layers import MONOTONE, Activation
from tl_lightning.layers import activation as make_activation
from tl_lightning.types import InputSpec, LayerGroup

__all__ = ["ConvNet"]


class ConvNet(nn.Module):
    r"""Blocks of convolution, batch norm, activation and 2 x 2 max pooling, then a linear layer.

    A network of the LeNet kind, as digits are adapted with in Ganin et al., "Domain-Adversarial
    Training of Neural Networks", JMLR 17(59), 2016. With :math:`L` = ``len(widths)`` blocks the
    side of the picture shrinks from ``size`` to :math:`s_L = \lfloor size / 2^L \rfloor`; the
    flattened features are :math:`widths_L \cdot s_L^2` wide.

    Two blocks with ``activation="tanh"``, ``norm=True`` and ``features=128`` are the classic tanh
    network: conv, batch norm, tanh, max pooling, twice, then linear and tanh.

    Args:
        size: Height and width of the pictures in pixels.
        widths: Output channels of each block.
        kernel_size: Side of every convolution's kernel; odd, so that padding keeps the side.
        activation: After every convolution and after the last linear layer.
        norm: Batch norm after every convolution (Ioffe and Szegedy, ICML 2015).
        channel_dropout: Probability that a channel of a block's output is dropped (Tompson et al.,
            CVPR 2015).
        features: Width of a last linear layer with activation; None ends with the flattened maps.
        mean: Mean of each channel, of pictures scaled to [0, 1].
        std: Standard deviation of each channel, likewise.
        lr_factor: How fast it learns relative to new layers.

    Attributes:
        out_features: Width ``D`` of the features.
        input_spec: What it expects of a picture.

    Raises:
        ConfigError: If a setting does not describe a network; names every fault.

    >>> import torch
    >>> net = ConvNet(size=28, widths=(32, 48), kernel_size=5, activation="tanh", norm=True,
    ...               channel_dropout=0.0, features=None, mean=(0.5,) * 3, std=(0.5,) * 3,
    ...               lr_factor=1.0)
    >>> net.out_features == 48 * 7 * 7
    True
    >>> net(torch.zeros(2, 3, 28, 28)).shape
    torch.Size([2, 2352])
    """

    def __init__(
        self,
        *,
        size: int,
        widths: Sequence[int],
        kernel_size: int,
        activation: Activation,
        norm: bool,
        channel_dropout: float,
        features: int | None,
        mean: Sequence[float],
        std: Sequence[float],
        lr_factor: float,
    ) -> None:
        super().__init__()
        faults = []
        if kernel_size < 1 or kernel_size % 2 == 0:
            faults.append(f"kernel_size must be odd, got {kernel_size}; set backbone.kernel_size=3")
        if not widths or size >> len(widths) < 1:
            faults.append(
                f"every block halves the picture: {len(widths)} blocks do not fit size {size}; "
                "set backbone.widths=[32,64] or a larger backbone.size"
            )
        if len(mean) != len(std):
            faults.append(
                f"mean has {len(mean)} channels and std {len(std)}; "
                "set backbone.mean=[0.5,0.5,0.5] backbone.std=[0.5,0.5,0.5]"
            )
        if faults:
            raise ConfigError(faults)

        self.lr_factor = lr_factor
        self.blocks = nn.Sequential()
        channels, side = len(mean), size
        for width in widths:
            # A bias before batch norm is subtracted again.
            conv = nn.Conv2d(channels, width, kernel_size, padding=kernel_size // 2, bias=not norm)
            self.blocks.append(
                nn.Sequential(
                    conv,
                    nn.BatchNorm2d(width) if norm else nn.Identity(),
                    *_pooled(activation),
                    nn.Dropout2d(channel_dropout),
                )
            )
            channels, side = width, side // 2
        flat = channels * side * side
        self.neck = (
            nn.Identity()
            if features is None
            else nn.Sequential(nn.Linear(flat, features), make_activation(activation))
        )
        self.out_features = flat if features is None else features
        self.input_spec = InputSpec(size=size, mean=tuple(mean), std=tuple(std))

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised pictures ``(B, 3, size, size)`` to features ``(B, out_features)``."""
        maps: Tensor = self.blocks(x)
        features: Tensor = self.neck(maps.flatten(1))
        return features

    def layer_groups(self, chain: bool = False) -> list[LayerGroup]:
        """Return one group a block, then the last layer with the flattening before it."""
        groups = [
            LayerGroup(f"block{k}", (block,), tuple(block.parameters()), block)
            for k, block in enumerate(self.blocks)
        ]
        neck = self.neck
        return [
            *groups,
            LayerGroup("neck", (neck,), tuple(neck.parameters()), lambda x: neck(x.flatten(1))),
        ]


def _pooled(name: Activation) -> tuple[nn.Module, nn.Module]:
    """Return activation and pooling in the cheaper order that gives the same values.

    The largest of four values stays the largest under a function that never decreases, so pooling
    first spares three quarters of the work.
    """
    pool, act = nn.MaxPool2d(2), make_activation(name)
    return (pool, act) if name in MONOTONE else (act, pool)
