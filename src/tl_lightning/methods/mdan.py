"""MDAN: adversarial adaptation from several sources, weighted towards the hardest.

Zhao, Zhang, Wu, Moura, Costeira, Gordon (2018): Adversarial Multiple Source Domain Adaptation.
NeurIPS, arXiv:1705.09684.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor

from tl_lightning.config.hints import at_least
from tl_lightning.layers import perceptron
from tl_lightning.methods.components.adversary import Adversary, domain_loss
from tl_lightning.methods.components.gather import gathered
from tl_lightning.methods.components.gradient_reversal import reverse_gradient
from tl_lightning.methods.components.source_domains import domain_losses, number_of, present
from tl_lightning.types import Context, Terms, Views

__all__ = ["MDAN"]


class MDAN(Adversary):
    """One discriminator with an output for each source, which separates it from the target.

    The losses of the sources are combined by a smooth maximum, whose gradient weights them with
    ``softmax(gamma (L_i + d_i))``: ``L_i`` is the cross-entropy of source ``i`` and ``d_i`` its
    domain loss. The paper has a separate discriminator for each source and weights the
    classification losses in the same way; here the task's loss is the mean over all samples.

    Args:
        in_features: Width ``D`` of the features.
        gamma: Sharpness of the maximum; 0 gives all sources the same weight.
        gather: Whether to compute the losses on the batches of all ranks together.
        num_sources: Number of domains of the source.
        kwargs: As in :class:`Adversary`.
    """

    uses_source_domains = True
    uses_weights = False

    def __init__(
        self,
        *,
        in_features: int,
        gamma: Annotated[float, at_least(0)],
        gather: bool,
        num_sources: int | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(in_features=in_features, inputs=in_features, **kwargs)
        hidden = (kwargs["width"], kwargs["depth"], kwargs["dropout"], kwargs["activation"])
        self.discriminator = perceptron(
            in_features, *hidden, out=number_of("mdan", num_sources), norm=kwargs["norm"]
        )
        self.gamma = gamma
        self.gather = gather

    def seen(self, features: Tensor, logits: Tensor) -> Tensor:
        """Return the features."""
        return features

    def domain_logits(self, features: Tensor, logits: Tensor) -> Tensor:
        """Return the logits ``(B,)`` of being from any of the sources."""
        out: Tensor = self.discriminator(features)
        return out.amax(1)

    def forward(self, views: Views, ctx: Context) -> Terms:
        """Return the weighted domain losses of the sources."""
        source, target = (
            gathered(views[name]) if self.gather else views[name] for name in ("source", "target")
        )
        scale, domain = self.strength(ctx), source.require("domain")
        both = torch.cat([source.features, target.features])
        out = self.discriminator(reverse_gradient(both, scale))
        of_source, of_target = out.split([len(source.features), len(target.features)])
        numbers = present(source)
        losses = torch.stack(
            [domain_loss(of_source[domain == n, n], of_target[:, n]) for n in numbers]
        )
        with torch.no_grad():
            weights = (self.gamma * (domain_losses(source) + losses)).softmax(0)
        ctx.log("lambda", scale)
        ctx.log("largest_weight", weights.max())
        return {self.name: (weights * losses).sum()}
