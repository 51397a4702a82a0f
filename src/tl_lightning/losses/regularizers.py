"""Penalties on weights and features that are added to the loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tl_lightning.errors import ConfigError
from tl_lightning.types import Terms, Views

__all__ = ["BSS", "L1", "L2", "L2SP", "Regularizer", "spectral_tail", "squares"]


class Regularizer(nn.Module):
    """Base of the regularisers; knows no Lightning, no optimizer, no loader.

    A method implements :meth:`forward` and takes its knobs as required keyword arguments (the
    defaults live in its yaml). Only what learns when the term is asked for counts: a frozen weight
    adds nothing. A weight of 0 adds no term at all, so the run is the run without the method. The
    knobs are numbers of at least 0.

    Args:
        backbone: From pictures to features, with its starting weights in place.
        task: The head and its loss.
        knobs: What :meth:`faults` looks at.

    Raises:
        ConfigError: If a knob is below 0.
    """

    def __init__(self, *, backbone: nn.Module, task: nn.Module, **knobs: float) -> None:
        super().__init__()
        faults = self.faults("regularizer", knobs)
        if faults:
            raise ConfigError(faults)
        # In a tuple, not as submodules: their weights are in the model's state dict already.
        self.parts = (backbone, task)

    @classmethod
    def faults(cls, where: str, knobs: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with the knobs of the node at ``where``, a sentence each."""
        return [
            f"{where}.{key}={value} is below 0; type {where}.{key}=0 for none of it"
            for key, value in knobs.items()
            if isinstance(value, int | float) and value < 0
        ]

    def forward(self, views: Views) -> Terms:
        """Return the named loss terms of one step; they are added to the task's loss."""
        raise NotImplementedError

    def kernels(self) -> Iterator[Tensor]:
        """Yield the learning weights of two or more dimensions, of the backbone and the head.

        Those are matrices, convolution kernels and embeddings; biases and the scales of
        normalisation have one dimension.
        """
        for part in self.parts:
            yield from (p for p in part.parameters() if p.requires_grad and p.ndim > 1)


def squares(tensors: Sequence[Tensor]) -> Tensor:
    """Return the sum of squares of all values, in float32.

    >>> squares([torch.tensor([1.0, 2.0]), torch.tensor([[3.0]])]).item()
    14.0
    """
    return torch.stack([tensor.float().square().sum() for tensor in tensors]).sum()


class L1(Regularizer):
    """``weight * sum |w|`` over the learning matrices and kernels of backbone and head.

    Tibshirani (1996): Regression Shrinkage and Selection via the Lasso. JRSS B 58(1). Biases and
    the scales of normalisation are left out.

    Args:
        backbone: As in :class:`Regularizer`.
        task: As there.
        weight: At least 0.
    """

    def __init__(self, *, backbone: nn.Module, task: nn.Module, weight: float) -> None:
        super().__init__(backbone=backbone, task=task, weight=weight)
        self.weight = weight

    def forward(self, views: Views) -> Terms:
        """Return ``{"l1": term}``."""
        found = [w.float().abs().sum() for w in self.kernels()] if self.weight else []
        return {"l1": self.weight * torch.stack(found).sum()} if found else {}


class L2(Regularizer):
    """``weight / 2 * sum w^2`` over the learning matrices and kernels of backbone and head.

    Hoerl, Kennard (1970): Ridge Regression. Technometrics 12(1). Its gradient ``weight * w`` goes
    through the optimizer like any other; with Adam that is not weight decay (Loshchilov, Hutter,
    ICLR 2019). Biases and the scales of normalisation are left out.

    Args:
        backbone: As in :class:`Regularizer`.
        task: As there.
        weight: At least 0.
    """

    def __init__(self, *, backbone: nn.Module, task: nn.Module, weight: float) -> None:
        super().__init__(backbone=backbone, task=task, weight=weight)
        self.weight = weight

    def forward(self, views: Views) -> Terms:
        """Return ``{"l2": term}``."""
        found = list(self.kernels()) if self.weight else []
        return {"l2": 0.5 * self.weight * squares(found)} if found else {}


class L2SP(Regularizer):
    """``alpha / 2 * ||w_S - w_S^0||^2 + beta / 2 * ||w_new||^2``.

    ``w_S`` are all learning parameters of the backbone (also biases and normalisation), ``w_S^0``
    the same where the run began, ``w_new`` all learning parameters of the head.

    Args:
        backbone: As in :class:`Regularizer`; its weights now are ``w_S^0``.
        task: As there.
        alpha: Pull towards the start, at least 0.
        beta: Pull of the head towards 0, at least 0.
    """

    def __init__(self, *, backbone: nn.Module, task: nn.Module, alpha: float, beta: float) -> None:
        super().__init__(backbone=backbone, task=task, alpha=alpha, beta=beta)
        self.alpha = alpha
        self.beta = beta
        # Not in the state dict: a resumed run builds them again from the same pretrained weights.
        for place, value in enumerate(backbone.parameters() if alpha else ()):
            self.register_buffer(f"start_{place}", value.detach().clone(), persistent=False)

    def forward(self, views: Views) -> Terms:
        """Return ``{"l2_sp": pull to the start, "l2_sp_head": pull to 0}``."""
        backbone, task = self.parts
        pairs = zip(backbone.parameters(), self.buffers(), strict=True) if self.alpha else ()
        moved = [now.float() - start.float() for now, start in pairs if now.requires_grad]
        new = [w for w in task.parameters() if w.requires_grad] if self.beta else []
        terms = {}
        if moved:
            terms["l2_sp"] = 0.5 * self.alpha * squares(moved)
        if new:
            terms["l2_sp_head"] = 0.5 * self.beta * squares(new)
        return terms


def spectral_tail(features: Tensor, k: int) -> Tensor:
    """Return the sum of squares of the ``k`` smallest singular values, in float32.

    Args:
        features: ``(B, D)``.
        k: How many; all ``min(B, D)`` of them if it is more.

    >>> round(spectral_tail(torch.diag(torch.tensor([3.0, 2.0, 1.0])), 2).item(), 4)
    5.0
    """
    values: Tensor = torch.linalg.svdvals(features.float())  # from the largest to the smallest
    return values[-k:].square().sum()


class BSS(Regularizer):
    """``eta * sum of sigma_i^2`` over the ``k`` smallest singular values of a batch's features.

    The features are those that the classifier sees. Of several domains each has a matrix of its
    own, and the term is their mean; features that do not learn add nothing.

    Args:
        backbone: As in :class:`Regularizer`.
        task: As there.
        eta: At least 0.
        k: Number of singular values, at least 1.

    Raises:
        ConfigError: If a knob is out of its range.
    """

    def __init__(self, *, backbone: nn.Module, task: nn.Module, eta: float, k: int) -> None:
        super().__init__(backbone=backbone, task=task, eta=eta, k=k)
        self.eta = eta
        self.k = k

    @classmethod
    def faults(cls, where: str, knobs: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with the knobs, a sentence each."""
        found = super().faults(where, knobs)
        if knobs["k"] == 0:
            found.append(
                f"{where}.k=0 singular values are none; type {where}.k=1, or {where}.eta=0 to "
                "leave the method out"
            )
        return found

    def forward(self, views: Views) -> Terms:
        """Return ``{"bss": term}`` for views with features ``(B, D)``."""
        found = [
            spectral_tail(view.features, self.k)
            for view in views.values()
            if self.eta and view.features.requires_grad
        ]
        return {"bss": self.eta * torch.stack(found).mean()} if found else {}
