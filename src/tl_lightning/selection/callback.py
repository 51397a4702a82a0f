"""Score every epoch's model without target labels, for the rules that choose one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tl_lightning.data.samplers.domain import spread
from tl_lightning.errors import ConfigError
from tl_lightning.models.base import DOMAINS
from tl_lightning.selection.collapse import collapsed, floored
from tl_lightning.selection.scores import NAMES, Outputs, raw_scores

__all__ = ["Validators"]

Rows = dict[int, tuple[NDArray[Any], ...]]


class Validators(L.Callback):
    """Log ``validator/<name>`` in every validation, and ``validator/floored/<name>`` for the rules.

    The scores are those of ``selection/scores.py``, of pictures spread evenly over each domain's
    validation split: the same ones in every epoch and on any number of ranks. Labels of the target
    are never read. A floored score is that of a model that has not collapsed, and else one below
    all; ``validator/floor`` is the source accuracy below which a model counts as collapsed.

    Args:
        samples: Validation pictures a domain that are scored.
        floor_ratio: Collapsed is whose source accuracy is below this share of the run's best so
            far; in [0, 1].
        least_predicted: Collapsed is who predicts a smaller share of the classes on the target; in
            [0, 1].

    Raises:
        ConfigError: If an argument is out of its range.
    """

    def __init__(self, *, samples: int, floor_ratio: float, least_predicted: float) -> None:
        knobs = {"samples": samples, "floor_ratio": floor_ratio, "least_predicted": least_predicted}
        found = self.faults("callbacks.validators", knobs)
        if found:
            raise ConfigError(found)
        self.samples = samples
        self.floor_ratio = floor_ratio
        self.least_predicted = least_predicted
        self.best_source_acc = 0.0
        self.wanted: dict[str, Tensor] = {}
        self.kept: dict[str, list[tuple[Tensor, ...]]] = {}

    @classmethod
    def faults(cls, where: str, knobs: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with the settings, a sentence each."""
        found = []
        if knobs["samples"] < 2:
            found.append(
                f"{where}.samples={knobs['samples']} are too few pictures to compare; type "
                f"{where}.samples=1000"
            )
        for key, usual in (("floor_ratio", 0.9), ("least_predicted", 0.5)):
            if not 0 <= knobs[key] <= 1:
                found.append(
                    f"{where}.{key}={knobs[key]} is not in [0, 1]; type {where}.{key}={usual}"
                )
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return the best source accuracy so far."""
        return {"best_source_acc": self.best_source_acc}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.best_source_acc = float(state_dict["best_source_acc"])

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the last epoch; decide which pictures are scored."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self.kept = {role: [] for role in data.roles}
        self.wanted = {
            role: torch.tensor(spread(len(data.found[role].val), self.samples)).to(pl_module.device)
            for role in data.roles
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
        """Keep the outputs of the pictures that are scored; labels of the source alone."""
        role = DOMAINS[dataloader_idx]
        names = ("index", "features", "logits", *(("labels",) if role == "source" else ()))
        index = outputs["index"]
        chosen = torch.isin(index, self.wanted[role].to(index.device))
        self.kept[role].append(tuple(outputs[name][chosen] for name in names))

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Score the rows of all ranks, on the first one, and log the same on every rank."""
        kept, self.kept = self.kept, {}
        parts: list[Any] = [{role: _rows(found) for role, found in kept.items()}]
        if trainer.world_size > 1:
            own, parts = parts[0], [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, own)
        values: dict[str, float] = {}
        if trainer.is_global_zero:
            merged: dict[str, Rows] = {}
            for part in parts:
                for role, rows in part.items():
                    merged.setdefault(role, {}).update(rows)
            values = self.score({role: _outputs(rows) for role, rows in merged.items()})
        values = trainer.strategy.broadcast(values)
        self.best_source_acc = max(self.best_source_acc, values["validator/source_val"])
        pl_module.log_dict(values)

    def score(self, outputs: Mapping[str, Outputs]) -> dict[str, float]:
        """Return what is logged of one checkpoint.

        Args:
            outputs: Of ``source`` and, where there is one, ``target``.
        """
        target = outputs.get("target")
        found = raw_scores(outputs["source"], target)
        accuracy = found["source_val"]
        best = max(self.best_source_acc, accuracy)
        values = {f"validator/{name}": value for name, value in found.items()}
        values["validator/floor"] = self.floor_ratio * best
        if target is not None:
            bad = collapsed(
                accuracy,
                best,
                self.floor_ratio,
                found["predicted"],
                self.least_predicted,
                target.logits.shape[1],
            )
            values |= {
                f"validator/floored/{name}": floored(
                    found[name], source_acc=accuracy, is_collapsed=bad
                )
                for name in NAMES
            }
        return values


def _rows(parts: list[tuple[Tensor, ...]]) -> Rows:
    """Return features, logits and any labels by the picture's place in its split."""
    columns = [torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)]
    if not columns:
        return {}
    index, *others = columns
    return dict(zip(index.tolist(), zip(*others, strict=True), strict=True))


def _outputs(rows: Rows) -> Outputs:
    columns = zip(*(rows[place] for place in sorted(rows)), strict=True)
    return Outputs(*(np.stack(column) for column in columns))
