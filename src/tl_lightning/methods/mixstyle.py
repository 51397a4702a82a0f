"""MixStyle: mixes the feature statistics of samples in early layers.

Zhou, Yang, Qiao, Xiang (2021): Domain Generalization with MixStyle. ICLR, arXiv:2104.02008.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from tl_lightning.config.hints import above, within
from tl_lightning.config.schema import RunConfig
from tl_lightning.errors import ConfigError
from tl_lightning.methods.base import Method
from tl_lightning.methods.components.kinds import TASKS
from tl_lightning.types import Context, Terms, Views

__all__ = ["MixStyle", "mixed_style"]

#: Smallest number of layer groups that has early ones.
FEWEST = 3


def mixed_style(x: Tensor, weight: Tensor, order: Tensor, eps: float = 1e-6) -> Tensor:
    """Return ``x`` with the mean and the deviation of each channel mixed with another sample's.

    The statistics are not differentiated, as in the paper.

    Args:
        x: ``(B, C, H, W)``.
        weight: ``(B, 1, 1, 1)``, of the sample's own statistics.
        order: ``(B,)`` index of the other sample.
        eps: Added to the variance.
    """
    mean = x.mean((2, 3), keepdim=True).detach()
    std = (x.var((2, 3), keepdim=True, unbiased=False) + eps).sqrt().detach()
    normal = (x - mean) / std
    mixed_mean = weight * mean + (1 - weight) * mean[order]
    return normal * (weight * std + (1 - weight) * std[order]) + mixed_mean


class MixStyle(Method):
    """Changes the network in training only, and adds no loss term.

    After the layer groups at a quarter and at half of the network, with probability ``p`` in a
    step, the styles of the samples are mixed with those of a random permutation of the batch. The
    paper mixes after the first two or three of four stages. Layers that are frozen are mixed as
    well: only the layers behind them learn from it then.

    Args:
        in_features: Not used.
        num_classes: Not used.
        p: Probability of mixing in a step, for each place.
        alpha: Of ``Beta(alpha, alpha)``, from which the weights are drawn.
    """

    tasks = TASKS
    required_domains = frozenset({"source"})
    adds_loss = False

    def __init__(
        self,
        *,
        in_features: int,
        num_classes: int,
        p: Annotated[float, within(0, 1)],
        alpha: Annotated[float, above(0)],
    ) -> None:
        super().__init__(in_features=in_features, num_classes=num_classes)
        self.p = p
        self.alpha = alpha
        #: Names of the layer groups whose outputs are mixed.
        self.places: tuple[str, ...] = ()

    @classmethod
    def check_run(cls, where: str, params: Mapping[str, Any], run: RunConfig) -> Iterator[str]:
        """Yield settings that would mix the target's statistics, or skip the layers."""
        name = where.rpartition(".")[2]
        if "target" in run.model.cls.train_on:
            yield (
                f"method=[{name}] mixes the styles of the source's domains, but model={run.name} "
                "passes target images as well; set model=domain_generalization"
            )
        if run.cache.features in ("full", "prefix"):
            yield (
                f"method=[{name}] changes the outputs of early layers in every step, but "
                f"cache.features={run.cache.features} stores them; set cache.features=off"
            )

    def modify_network(self, backbone: nn.Module, task: nn.Module) -> None:
        """Attach the mixing to early layers.

        Raises:
            ConfigError: If the backbone states no layer groups, or too few.
        """
        stated: Any = getattr(backbone, "layer_groups", None)
        groups = [] if stated is None else stated()
        if len(groups) < FEWEST:
            raise ConfigError(
                f"method=[{self.name}] mixes after early layers, but {type(backbone).__name__} has "
                f"{len(groups)} layer groups, fewer than {FEWEST}; use another backbone"
            )
        chosen = dict.fromkeys((len(groups) // 4, len(groups) // 2))
        self.places = tuple(groups[number].name for number in chosen)
        for number in chosen:
            groups[number].modules[-1].register_forward_hook(self._mix)

    def _mix(self, module: nn.Module, inputs: Any, out: Tensor) -> Tensor | None:
        # Not module.training: a frozen layer is in evaluation mode, and its output is mixed too.
        if not self.training:
            return None
        if out.dim() != 4:
            raise ConfigError(
                f"method=[{self.name}] mixes maps (B, C, H, W), but a layer group returns "
                f"{tuple(out.shape)}; use a convolutional backbone"
            )
        if torch.rand(()) >= self.p:
            return None
        alpha = out.new_full((len(out), 1, 1, 1), self.alpha, dtype=torch.float32)
        weight = torch.distributions.Beta(alpha, alpha).sample().to(out.dtype)
        return mixed_style(out, weight, torch.randperm(len(out), device=out.device))

    def forward(self, views: Views, ctx: Context) -> Terms:
        """Return no terms."""
        return {}
