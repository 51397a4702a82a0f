"""Small convolutional network for digits and other small images."""

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

    A LeNet-style network, as used for digits by Ganin et al., "Domain-Adversarial Training of
    Neural Networks", JMLR 17(59), 2016. With :math:`L` = ``len(widths)`` blocks, the side of the
    feature maps is :math:`s_L = \lfloor size / 2^L \rfloor`, and the flattened features have width
    :math:`widths_L \cdot s_L^2`.

    Two blocks with ``activation="tanh"``, ``norm=True`` and ``features=128`` are the classic tanh
    network: twice conv, batch norm, tanh and max pooling, then linear and tanh.

    Args:
        size: Height and width of the images in pixels.
        widths: Output channels of each block.
        kernel_size: Kernel size of all convolutions; odd, so that padding preserves the size.
        activation: Activation after every convolution and after the last linear layer.
        norm: Whether to use batch norm after every convolution (Ioffe and Szegedy, ICML 2015).
        channel_dropout: Channel dropout probability after each block (Tompson et al., CVPR 2015).
        features: Width of a final linear layer with activation; None returns flattened maps.
        mean: Mean of each channel, for images scaled to [0, 1].
        std: Standard deviation of each channel, likewise.
        lr_factor: Learning-rate factor relative to new layers.

    Attributes:
        out_features: Width ``D`` of the features.
        input_spec: Expected image format.

    Raises:
        ConfigError: If the settings are not valid; lists all problems.

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
        problems = []
        if kernel_size < 1 or kernel_size % 2 == 0:
            problems.append(
                f"backbone.kernel_size={kernel_size} must be odd; set backbone.kernel_size=3"
            )
        if not widths or size >> len(widths) < 1:
            problems.append(
                f"backbone.widths has {len(widths)} block(s), which does not fit backbone.size="
                f"{size}: at least one block is required, and each halves the image; set "
                "backbone.widths=[32,64] or a larger backbone.size"
            )
        if len(mean) != len(std):
            problems.append(
                f"backbone.mean has {len(mean)} channel(s), but backbone.std has {len(std)}; set "
                "backbone.mean=[0.5,0.5,0.5] backbone.std=[0.5,0.5,0.5]"
            )
        if problems:
            raise ConfigError(problems)

        self.lr_factor = lr_factor
        self.blocks = nn.Sequential()
        channels, side = len(mean), size
        for width in widths:
            # Batch norm makes a bias redundant.
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
        """Map normalised images ``(B, 3, size, size)`` to features ``(B, out_features)``."""
        maps: Tensor = self.blocks(x)
        features: Tensor = self.neck(maps.flatten(1))
        return features

    def layer_groups(self, chain: bool = False) -> list[LayerGroup]:
        """Return one group per block, then the final layer including the flattening."""
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
    """Return activation and max pooling in the cheaper of two equivalent orders.

    A non-decreasing activation commutes with max pooling, so pooling first saves three quarters of
    the work.
    """
    pool, act = nn.MaxPool2d(2), make_activation(name)
    return (pool, act) if name in MONOTONE else (act, pool)
