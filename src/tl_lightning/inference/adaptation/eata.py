"""EATA: entropy minimisation on selected samples of the stream, without forgetting.

Niu, Wu, Zhang, Chen, Zheng, Zhao, Tan (2022): Efficient Test-Time Model Adaptation without
Forgetting. ICML.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tl_lightning.inference.adaptation.tent import MOMENTUM as STEP_MOMENTUM
from tl_lightning.inference.adaptation.tent import Tent, reliable_below
from tl_lightning.methods.entropy import entropies

__all__ = ["EATA", "FISHER_SAMPLES", "fisher_information", "highest_lr"]

#: Samples are redundant if the cosine of their probabilities and the mean of the earlier ones is at
#: least this, divided by the square root of the number of classes: a certain prediction and the
#: uniform distribution have 1. The paper's values are 0.4 for 10 classes and 0.05 for 1,000, which
#: are 1.3 and 1.6 here.
REDUNDANT = 1.4
#: Momentum of that mean, weight of the regulariser, and number of samples it is computed on.
MOMENTUM, WEIGHT, FISHER_SAMPLES = 0.9, 2000.0, 2000


def fisher_information(
    batches: Iterable[Tensor],
    logits_of: Callable[[Tensor], Tensor],
    parameters: Sequence[nn.Parameter],
) -> list[Tensor]:
    """Return the diagonal of the Fisher information of each parameter.

    It is the mean over batches of the squared gradient of the cross-entropy with the predicted
    classes (equation 9), so that no labels are needed.

    Args:
        batches: Network inputs of samples of the source, at least one batch.
        logits_of: The model.
        parameters: Scales and shifts of the normalisation layers.
    """
    sums, number = [torch.zeros_like(one) for one in parameters], 0
    for inputs in batches:
        logits = logits_of(inputs)
        loss = functional.cross_entropy(logits, logits.detach().argmax(1))
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for total, gradient in zip(sums, gradients, strict=True):
            if gradient is not None:
                total += gradient.square()
        number += 1
    return [total / number for total in sums]


def highest_lr(fisher: Sequence[Tensor]) -> float:
    """Return the learning rate above which steps on the regulariser alone diverge.

    Gradient descent with momentum ``m`` on a parabola of curvature ``h`` converges for learning
    rates below ``2 (1 + m) / h`` (Polyak 1964); here, ``h`` is twice the weight times the
    largest Fisher information.

    >>> round(highest_lr([torch.tensor([0.0, 1e-3]), torch.tensor([2e-3])]), 6)
    0.475
    """
    largest = max((float(one.max()) for one in fisher), default=0.0)
    return (1 + STEP_MOMENTUM) / (WEIGHT * largest) if largest > 0 else math.inf


class EATA(Tent):
    """Steps on the weighted entropy of reliable samples that differ from earlier ones.

    Args:
        parameters: Scales and shifts of the normalisation layers, as trained.
        lr: Learning rate.
        fisher: See :func:`fisher_information`; None: no regulariser.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], lr: float, fisher: list[Tensor] | None
    ) -> None:
        super().__init__(parameters, lr)
        self.fisher = fisher
        self.trained = [one.detach().clone() for one in self.parameters]

    def reset(self) -> None:
        """Forget what was learned."""
        super().reset()
        #: Mean of the probabilities of earlier samples ``(K,)``.
        self.mean: Tensor | None = None

    def update(self, logits: Tensor, forward: Callable[[], Tensor]) -> bool:
        """Take a step, if any sample is selected."""
        entropy, classes = entropies(logits), logits.shape[1]
        margin = reliable_below(classes)
        probabilities = logits.detach().softmax(1)
        selected = entropy.detach() < margin
        if self.mean is not None:
            similar = functional.cosine_similarity(self.mean[None], probabilities, dim=1)
            selected &= similar < REDUNDANT / math.sqrt(classes)
        if not selected.any():
            return False
        mean = probabilities[selected].mean(0)
        self.mean = mean if self.mean is None else MOMENTUM * self.mean + (1 - MOMENTUM) * mean
        chosen = entropy[selected]
        weights = (margin - chosen.detach()).exp()
        self.step((weights * chosen).mean() + self._penalty())
        return False

    def _penalty(self) -> Tensor | float:
        if self.fisher is None:
            return 0.0
        parts = [
            (fisher * (one - trained).square()).sum()
            for fisher, one, trained in zip(self.fisher, self.parameters, self.trained, strict=True)
        ]
        return WEIGHT * torch.stack(parts).sum()

    def state(self) -> dict[str, Any]:
        """Return the state, for :meth:`restore`."""
        return {**super().state(), "mean": self.mean}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state."""
        super().restore(state)
        mean = state["mean"]
        self.mean = None if mean is None else mean.to(self.parameters[0].device)
