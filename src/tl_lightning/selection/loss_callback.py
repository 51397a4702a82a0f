"""Callback that logs model selection scores for labels that are not classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from torch import Tensor

from tl_lightning.errors import ConfigError
from tl_lightning.selection.callback import Rows, Validators, columns_of
from tl_lightning.selection.collapse import apply_collapse_filter
from tl_lightning.selection.loss_scores import LOSS_SCORES, LossOutputs, loss_scores

__all__ = ["LossValidators", "constant_loss"]


def constant_loss(task: Any, labels: Tensor) -> Tensor:
    """Return the mean loss of the best constant outputs for labels ``(N, K)``.

    They are those of the ``constant`` of the loss: the mean of the standardised labels for the
    squared error, their median for the absolute error, and the log odds of the frequencies for
    several labels of a sample. For a loss of your own without ``constant``, they are the mean.
    """
    targets = task.targets(labels).float()
    best = getattr(task.loss_fn, "constant", lambda values: values.mean(0))(targets)
    loss: Tensor = task.sample_losses(best.expand(len(labels), -1), labels).mean()
    return loss


class LossValidators(Validators):
    """As :class:`.Validators`, with the scores of ``selection/loss_scores.py``.

    Losses are divided by that of a constant; ``validator/source_val`` is the fraction of the loss
    that the model explains (for the squared error of numbers, R squared).

    Args:
        samples: Number of validation samples per domain.
        min_source_ratio: A model counts as collapsed if it explains less of the source than this
            fraction of the best in the run; in [0, 1].

    Raises:
        ConfigError: If an argument is out of range.
    """

    def __init__(self, *, samples: int, min_source_ratio: float | Literal["auto"]) -> None:
        params = {"samples": samples, "min_source_ratio": min_source_ratio}
        problems = self.check_config("callbacks.validators", params)
        if problems:
            raise ConfigError(problems)
        super().__init__(
            samples=samples, min_source_ratio=min_source_ratio, min_predicted_classes=0.0
        )

    @classmethod
    def check_config(cls, where: str, params: Mapping[str, Any]) -> list[str]:
        """Return one message per invalid setting."""
        return super().check_config(where, {"min_predicted_classes": 0.0, **params})

    def columns(
        self, module: L.LightningModule, domain: str, part: Mapping[str, Tensor]
    ) -> tuple[Tensor, ...]:
        """Return the features, and the losses and labels of the source."""
        if domain != "source":
            return (part["features"],)
        losses = module.task.sample_losses(part["logits"], part["labels"])  # type: ignore[union-attr, operator]
        return part["features"], losses, part["labels"]

    def values_of(self, module: L.LightningModule, rows: Mapping[str, Rows]) -> dict[str, float]:
        """Return the values to log for one model."""
        features, losses, labels = columns_of(rows["source"])
        scale = float(constant_loss(module.task, torch.from_numpy(labels).to(module.device)))
        losses = losses / (scale or 1.0)
        explained = 1.0 - float(losses.mean())
        explained = explained if np.isfinite(explained) else 0.0
        best = max(self.best_source_acc, explained)
        values = {
            "validator/source_val": explained, "validator/floor": self.min_source_ratio * best,
        }  # fmt: skip
        if "target" not in rows:
            return values
        (target,) = columns_of(rows["target"])
        scores = loss_scores(LossOutputs(losses, features, target))
        collapsed = explained < self.min_source_ratio * best
        for name in LOSS_SCORES:
            values[f"validator/{name}"] = scores[name]
            values[f"validator/floored/{name}"] = apply_collapse_filter(
                scores[name], source_acc=explained, is_collapsed=collapsed
            )
        return values
