"""Callback that logs model selection scores without target labels after every validation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tl_lightning.distributed.ranks import gathered
from tl_lightning.errors import ConfigError
from tl_lightning.selection.collapse import WORST, apply_collapse_filter, collapsed
from tl_lightning.selection.scores import SCORES, Outputs, mix_of, prior_im, raw_scores
from tl_lightning.types import DOMAINS
from tl_lightning.utils.spread import spread

__all__ = ["MIN_PREDICTED", "MIN_SOURCE", "MIN_WEIGHTED", "Rows", "Validators", "columns_of"]

#: ``min_predicted_classes`` and ``min_source_ratio`` for a target that has all classes.
MIN_PREDICTED, MIN_SOURCE = 0.5, 0.9
#: ``min_source_ratio`` with class weights, which give up accuracy on absent classes.
MIN_WEIGHTED = 0.5

Rows = dict[int, tuple[NDArray[Any], ...]]


class Validators(L.Callback):
    """Log ``validator/<name>`` and, for the selection rules, ``validator/floored/<name>``.

    Scores are computed by ``selection/scores.py`` on samples spread evenly over each validation
    split: the same samples in every epoch and for any number of ranks. Target labels are never
    read. ``validator/floored/<name>`` is the score after the collapse filter, which gives collapsed
    models a score below all others; ``validator/floor`` is the source accuracy below which a model
    counts as collapsed. The score ``prior_im`` refers to the class frequencies estimated for the
    model before training, or if its head is random, for the first one validated.

    Args:
        samples: Number of validation samples per domain.
        min_source_ratio: A model counts as collapsed if its source accuracy is below this fraction
            of the best seen in the run; in [0, 1]. ``auto`` is replaced by the checks of a
            configuration.
        min_predicted_classes: A model counts as collapsed if it predicts less than this fraction
            of the classes on the target; in [0, 1]. ``auto`` is replaced by the checks of a
            configuration.

    Raises:
        ConfigError: If an argument is out of range.
    """

    def __init__(
        self,
        *,
        samples: int,
        min_source_ratio: float | Literal["auto"],
        min_predicted_classes: float | Literal["auto"],
    ) -> None:
        params = {
            "samples": samples,
            "min_source_ratio": min_source_ratio,
            "min_predicted_classes": min_predicted_classes,
        }
        problems = self.check_config("callbacks.validators", params)
        if problems:
            raise ConfigError(problems)
        self.samples = samples
        self.min_source_ratio = MIN_SOURCE if min_source_ratio == "auto" else min_source_ratio
        self.min_predicted_classes = (
            MIN_PREDICTED if min_predicted_classes == "auto" else min_predicted_classes
        )
        self.best_source_acc = 0.0
        #: Class frequencies of the target ``(K,)`` that the score ``prior_im`` refers to.
        self.mix: NDArray[Any] | None = None
        #: What was logged in the last validation.
        self.values: Mapping[str, float] = {}
        self.wanted: dict[str, Tensor] = {}
        self.kept: dict[str, list[tuple[Tensor, ...]]] = {}

    @classmethod
    def check_config(cls, where: str, params: Mapping[str, Any]) -> list[str]:
        """Return one message per invalid setting."""
        problems = []
        if params["samples"] < 2:
            problems.append(
                f"{where}.samples={params['samples']} must be at least 2; set {where}.samples=1000"
            )
        defaults = {"min_source_ratio": MIN_SOURCE, "min_predicted_classes": MIN_PREDICTED}
        for key, default in defaults.items():
            if params[key] != "auto" and not 0 <= params[key] <= 1:
                problems.append(
                    f"{where}.{key}={params[key]} is not in [0, 1]; set {where}.{key}={default}"
                )
        return problems

    def state_dict(self) -> dict[str, Any]:
        """Return the best source accuracy seen so far, and the class frequencies."""
        mix = None if self.mix is None else self.mix.tolist()
        return {"best_source_acc": self.best_source_acc, "mix": mix}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best source accuracy and the class frequencies."""
        self.best_source_acc = float(state_dict["best_source_acc"])
        mix = state_dict.get("mix")
        self.mix = None if mix is None else np.array(mix)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reset the collected outputs; choose the samples to score."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self.kept = {domain: [] for domain in data.validated}
        self.wanted = {
            domain: torch.tensor(spread(len(data.found[domain].val), self.samples)).to(
                pl_module.device
            )
            for domain in data.validated
        }

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect the outputs of the chosen samples, with labels for the source only."""
        domain, index = DOMAINS[dataloader_idx], outputs["index"]
        chosen = torch.isin(index, self.wanted[domain].to(index.device))
        part = {name: outputs[name][chosen] for name in ("features", "logits", "labels")
                if name in outputs}  # fmt: skip
        self.kept[domain].append((index[chosen], *self.columns(pl_module, domain, part)))

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Score the outputs of all ranks on rank 0, and log the same values on every rank."""
        kept, self.kept = self.kept, {}
        parts = gathered({domain: _rows(batches) for domain, batches in kept.items()})
        values: dict[str, float] = {}
        if trainer.is_global_zero:
            merged: dict[str, Rows] = {}
            for part in parts:
                for domain, rows in part.items():
                    merged.setdefault(domain, {}).update(rows)
            values = self.values_of(pl_module, merged)
        values, self.mix = trainer.strategy.broadcast((values, self.mix))
        self.values = values
        self.best_source_acc = max(self.best_source_acc, values["validator/source_val"])
        pl_module.log_dict(values)

    def columns(
        self, module: L.LightningModule, domain: str, part: Mapping[str, Tensor]
    ) -> tuple[Tensor, ...]:
        """Return what to collect of a part of a batch: labels are those of the source only."""
        names = ("features", "logits", *(("labels",) if domain == "source" else ()))
        return tuple(part[name] for name in names)

    def values_of(self, module: L.LightningModule, rows: Mapping[str, Rows]) -> dict[str, float]:
        """Return the values to log for what was collected, by domain and sample."""
        outputs = {domain: _outputs(found) for domain, found in rows.items()}
        self.mix = self.mix_of(outputs) if self.mix is None else self.mix
        return self.score(outputs, self.mix)

    @staticmethod
    def mix_of(outputs: Mapping[str, Outputs]) -> NDArray[Any] | None:
        """Return the class frequencies ``(K,)`` that a model estimates; None without a target."""
        target, source = outputs.get("target"), outputs["source"]
        if target is None or not np.isfinite(source.logits).all():
            return None
        return mix_of(source, target.logits) if np.isfinite(target.logits).all() else None

    def score(
        self, outputs: Mapping[str, Outputs], mix: NDArray[Any] | None = None
    ) -> dict[str, float]:
        """Return the values to log for one model.

        Args:
            outputs: Outputs for ``source`` and, if there is one, ``target``.
            mix: The class frequencies that ``prior_im`` refers to.
        """
        target = outputs.get("target")
        return self._filtered(raw_scores(outputs["source"], target, mix), target)

    def with_mix(
        self,
        values: Mapping[str, float],
        outputs: Mapping[str, Outputs],
        mix: NDArray[Any] | None,
    ) -> dict[str, float]:
        """Return :meth:`score` of the outputs for class frequencies, from its values without them.

        No other score than ``prior_im`` depends on them, and some take seconds.
        """
        if mix is None or values["validator/prior_im"] == WORST:
            return dict(values)
        names = ("source_val", *SCORES, "balance", "predicted")
        scores = {name: values[f"validator/{name}"] for name in names}
        scores["prior_im"] = prior_im(outputs["source"], outputs["target"].logits, mix)
        return self._filtered(scores, outputs["target"])

    def _filtered(self, scores: Mapping[str, float], target: Outputs | None) -> dict[str, float]:
        """Return the values to log for scores, with those after the collapse filter."""
        accuracy = scores["source_val"]
        best = max(self.best_source_acc, accuracy)
        values = {f"validator/{name}": value for name, value in scores.items()}
        values["validator/floor"] = self.min_source_ratio * best
        if target is not None:
            is_collapsed = collapsed(
                accuracy,
                best,
                self.min_source_ratio,
                scores["predicted"],
                self.min_predicted_classes,
                target.logits.shape[1],
            )
            values |= {
                f"validator/floored/{name}": apply_collapse_filter(
                    scores[name], source_acc=accuracy, is_collapsed=is_collapsed
                )
                for name in SCORES
            }
        return values


def _rows(parts: list[tuple[Tensor, ...]]) -> Rows:
    """Return features, logits and labels, if any, by sample index."""
    columns = [torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)]
    if not columns:
        return {}
    index, *others = columns
    return dict(zip(index.tolist(), zip(*others, strict=True), strict=True))


def columns_of(rows: Rows) -> list[NDArray[Any]]:
    """Return the columns of what was collected, in the order of the samples."""
    columns = zip(*(rows[index] for index in sorted(rows)), strict=True)
    return [np.stack(column) for column in columns]


def _outputs(rows: Rows) -> Outputs:
    return Outputs(*columns_of(rows))
