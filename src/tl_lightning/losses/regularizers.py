"""Regularizers: penalties on weights and features that are added to the loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tl_lightning.errors import ConfigError
from tl_lightning.losses.singular_values import singular_values
from tl_lightning.types import Terms, Views

__all__ = ["BSS", "L1", "L2", "L2SP", "Regularizer", "spectral_tail", "squares"]


class Regularizer(nn.Module):
    """Base class of the regularizers; independent of Lightning, optimizers and data loaders.

    A regularizer implements :meth:`forward` and takes its parameters, which must be at least 0, as
    required keyword arguments; the defaults are in its YAML file. Frozen parameters do not
    contribute. A weight of 0 adds no term, which is equivalent to training without the regularizer.

    Args:
        backbone: Backbone with its initial weights loaded.
        task: The head and its loss.
        params: Parameters to check with :meth:`check_config`.

    Raises:
        ConfigError: If a parameter is below 0.
    """

    def __init__(self, *, backbone: nn.Module, task: nn.Module, **params: float) -> None:
        super().__init__()
        problems = self.check_config("regularizer", params)
        if problems:
            raise ConfigError(problems)
        # A tuple hides the modules from the state dict, which already has them.
        self.parts = (backbone, task)

    @classmethod
    def check_config(cls, where: str, params: Mapping[str, Any]) -> list[str]:
        """Return one message for each invalid parameter of the config node at ``where``."""
        return [
            f"{where}.{key}={value} must be at least 0; set {where}.{key}=0 to disable it"
            for key, value in params.items()
            if isinstance(value, int | float) and value < 0
        ]

    def forward(self, views: Views) -> Terms:
        """Return the named loss terms of one step; they are added to the task's loss."""
        raise NotImplementedError

    def kernels(self) -> Iterator[Tensor]:
        """Yield the trainable weights of backbone and head that have two or more dimensions.

        These are matrices, convolution kernels and embeddings; biases and normalisation scales have
        one dimension.
        """
        for part in self.parts:
            yield from (p for p in part.parameters() if p.requires_grad and p.ndim > 1)


def squares(tensors: Sequence[Tensor]) -> Tensor:
    """Return the sum of squares over all tensors, in float32.

    >>> squares([torch.tensor([1.0, 2.0]), torch.tensor([[3.0]])]).item()
    14.0
    """
    return torch.stack([tensor.float().square().sum() for tensor in tensors]).sum()


class L1(Regularizer):
    """``weight * sum |w|`` over the trainable matrices and kernels of backbone and head.

    Tibshirani (1996): Regression Shrinkage and Selection via the Lasso. JRSS B 58(1). Biases and
    normalisation scales are excluded.

    Args:
        backbone: As in :class:`Regularizer`.
        task: As in :class:`Regularizer`.
        weight: Weight of the penalty, at least 0.
    """

    def __init__(self, *, backbone: nn.Module, task: nn.Module, weight: float) -> None:
        super().__init__(backbone=backbone, task=task, weight=weight)
        self.weight = weight

    def forward(self, views: Views) -> Terms:
        """Return ``{"l1": term}``."""
        norms = [w.float().abs().sum() for w in self.kernels()] if self.weight else []
        return {"l1": self.weight * torch.stack(norms).sum()} if norms else {}


class L2(Regularizer):
    """``weight / 2 * sum w^2`` over the trainable matrices and kernels of backbone and head.

    Hoerl, Kennard (1970): Ridge Regression. Technometrics 12(1). The gradient ``weight * w`` is
    part of the loss gradient, which with Adam differs from decoupled weight decay (Loshchilov,
    Hutter, ICLR 2019). Biases and normalisation scales are excluded.

    Args:
        backbone: As in :class:`Regularizer`.
        task: As in :class:`Regularizer`.
        weight: Weight of the penalty, at least 0.
    """

    def __init__(self, *, backbone: nn.Module, task: nn.Module, weight: float) -> None:
        super().__init__(backbone=backbone, task=task, weight=weight)
        self.weight = weight

    def forward(self, views: Views) -> Terms:
        """Return ``{"l2": term}``."""
        kernels = list(self.kernels()) if self.weight else []
        return {"l2": 0.5 * self.weight * squares(kernels)} if kernels else {}


class L2SP(Regularizer):
    """``alpha / 2 * ||w_S - w_S^0||^2 + beta / 2 * ||w_new||^2``.

    ``w_S`` are all trainable parameters of the backbone, including biases and normalisation,
    ``w_S^0`` their initial values in this run, and ``w_new`` those of the head.

    Args:
        backbone: As in :class:`Regularizer`; its current weights are ``w_S^0``.
        task: As in :class:`Regularizer`.
        alpha: Weight of the backbone's penalty, at least 0.
        beta: Weight of the head's penalty, at least 0.
    """

    def __init__(self, *, backbone: nn.Module, task: nn.Module, alpha: float, beta: float) -> None:
        super().__init__(backbone=backbone, task=task, alpha=alpha, beta=beta)
        self.alpha = alpha
        self.beta = beta
        # Not persistent: a resumed run builds them again from the same pretrained weights.
        for index, value in enumerate(backbone.parameters() if alpha else ()):
            self.register_buffer(f"start_{index}", value.detach().clone(), persistent=False)

    def forward(self, views: Views) -> Terms:
        """Return the terms ``l2_sp`` of the backbone and ``l2_sp_head`` of the head."""
        backbone, task = self.parts
        pairs = zip(backbone.parameters(), self.buffers(), strict=True) if self.alpha else ()
        deltas = [w.float() - start.float() for w, start in pairs if w.requires_grad]
        head = [w for w in task.parameters() if w.requires_grad] if self.beta else []
        terms = {}
        if deltas:
            terms["l2_sp"] = 0.5 * self.alpha * squares(deltas)
        if head:
            terms["l2_sp_head"] = 0.5 * self.beta * squares(head)
        return terms


def spectral_tail(features: Tensor, k: int) -> Tensor:
    """Return the sum of the ``k`` smallest squared singular values, in float32.

    Args:
        features: ``(B, D)``.
        k: Number of singular values; at most ``min(B, D)`` are used.

    >>> round(spectral_tail(torch.diag(torch.tensor([3.0, 2.0, 1.0])), 2).item(), 4)
    5.0
    """
    values: Tensor = singular_values(features.float())  # in descending order
    return values[-k:].square().sum()


class BSS(Regularizer):
    """Batch spectral shrinkage: ``eta`` times the ``k`` smallest squared singular values.

    The matrix is that of a batch's features (the classifier's input). With several domains, the
    term is the mean over domains; features without gradient do not contribute.

    Args:
        backbone: As in :class:`Regularizer`.
        task: As in :class:`Regularizer`.
        eta: Weight of the penalty, at least 0.
        k: Number of singular values, at least 1.

    Raises:
        ConfigError: If a parameter is out of range.
    """

    def __init__(self, *, backbone: nn.Module, task: nn.Module, eta: float, k: int) -> None:
        super().__init__(backbone=backbone, task=task, eta=eta, k=k)
        self.eta = eta
        self.k = k

    @classmethod
    def check_config(cls, where: str, params: Mapping[str, Any]) -> list[str]:
        """Return one message for each invalid parameter."""
        problems = super().check_config(where, params)
        if params["k"] == 0:
            problems.append(
                f"{where}.k=0 must be at least 1; set {where}.k=1, or {where}.eta=0 to disable "
                "the regularizer"
            )
        return problems

    def forward(self, views: Views) -> Terms:
        """Return ``{"bss": term}`` for views with features ``(B, D)``."""
        penalties = [
            spectral_tail(view.features, self.k)
            for view in views.values()
            if self.eta and view.features.requires_grad
        ]
        return {"bss": self.eta * torch.stack(penalties).mean()} if penalties else {}
