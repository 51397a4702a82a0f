"""Guard against NaN and infinite losses: stop the run, or skip the affected batches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from tl_lightning.distributed.ranks import gathered
from tl_lightning.errors import TrainingError
from tl_lightning.reporting.run.nan_report import write_nan_report
from tl_lightning.utils.text import shorten

__all__ = ["NaNGuard"]

#: Number of files listed in a message; the NaN report lists all of them.
_LISTED = 4
#: Number of steps before the first bad one whose losses are reported.
_HISTORY = 10


@dataclass
class _Step:
    """Record of a training step, kept without synchronising with the device."""

    epoch: int
    batch: int
    loss: Tensor
    terms: Mapping[str, Tensor]
    index: dict[str, Tensor]
    rates: dict[str, float]


class NaNGuard(L.Callback):
    """Check the loss every ``every_n_steps`` steps and at the last step of each epoch.

    A check synchronises with the device, so it is not done every step; it finds the first bad step
    since the previous check. The last step of an epoch is always checked because a checkpoint
    follows. With ``skip`` every step is checked before the optimizer step: if the loss or a
    gradient is not finite on any rank, no rank takes the step, and buffers (batch norm statistics)
    are restored to their values before the batch.

    Args:
        every_n_steps: Steps between two checks if ``on_nan`` is ``stop``.
        on_nan: Whether to stop the run or to skip the batch.
        max_skipped: The run stops once more batches than this have been skipped.
    """

    def __init__(
        self, *, every_n_steps: int, on_nan: Literal["stop", "skip"], max_skipped: int
    ) -> None:
        self.every_n_steps = every_n_steps
        self.on_nan = on_nan
        self.max_skipped = max_skipped
        self.recent: list[_Step] = []
        self.before: list[tuple[int, int, float]] = []
        #: Skipped batches: epoch, batch, files.
        self.skipped: list[dict[str, Any]] = []
        self.loss = torch.tensor(0.0)
        self.norms: dict[str, float] = {}
        #: Batches accumulated for the next optimizer step, and copies of the buffers before them.
        self.open: list[tuple[int, dict[str, Tensor]]] = []
        self.buffers: list[tuple[Tensor, Tensor]] = []
        self.stepped = self.bad = False

    @classmethod
    def check_config(cls, where: str, params: Mapping[str, Any]) -> list[str]:
        """Return one message per invalid setting."""
        return [
            f"{where}.{key}={params[key]} is below {minimum}; set {where}.{key}={minimum} or more"
            for key, minimum in (("every_n_steps", 1), ("max_skipped", 0))
            if params[key] < minimum
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return the skipped batches."""
        return {"skipped": list(self.skipped)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the skipped batches."""
        self.skipped = list(state_dict["skipped"])

    # -- stop --------------------------------------------------------------------------------
    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Raise TrainingError if a loss since the previous check is NaN or infinite."""
        if self.on_nan == "skip":
            self._end_of_batch(pl_module)
            return
        groups = trainer.optimizers[0].param_groups
        rates = {str(group["name"]): float(group["lr"]) for group in groups}
        loss, terms = outputs["loss"], outputs["terms"]
        step = _Step(trainer.current_epoch, batch_idx, loss, terms, _index(batch), rates)
        self.recent.append(step)
        last = batch_idx + 1 == trainer.num_training_batches
        if last or batch_idx % self.every_n_steps == 0:
            self.look(trainer)

    def look(self, trainer: L.Trainer) -> None:
        """Raise TrainingError if a loss since the previous check is not finite.

        This is a collective operation. It has to be called before a checkpoint is written within an
        epoch.
        """
        recent, self.recent = self.recent, []
        if not recent:
            return
        losses = torch.stack([step.loss for step in recent]).tolist()
        finite = [math.isfinite(loss) for loss in losses]
        history = [(s.epoch, s.batch, loss) for s, loss in zip(recent, losses, strict=True)]
        if all(finite):
            self.before = [*self.before, *history][-_HISTORY:]
        else:
            self.before = [*self.before, *history[: finite.index(False)]][-_HISTORY:]
        if trainer.strategy.reduce_boolean_decision(all(finite), all=True):
            return
        own = None if all(finite) else self._step_report(trainer, recent[finite.index(False)])
        report = _first_of_ranks(trainer, own)
        report["gradients"] = gradient_norms(trainer)
        self._stop(trainer, report, "")

    def _step_report(self, trainer: L.Trainer, step: _Step) -> dict[str, Any]:
        return {
            "epoch": step.epoch,
            "batch": step.batch,
            "rank": trainer.global_rank,
            "terms": {name: float(value) for name, value in step.terms.items()},
            "rates": step.rates,
            "files": _files(trainer, step.index),
            "before": self.before,
        }

    def _stop(self, trainer: L.Trainer, report: dict[str, Any], reason: str) -> None:
        terms = ", ".join(f"{name} {value:.4g}" for name, value in report["terms"].items())
        rates = ", ".join(f"{name} {value:.3g}" for name, value in report["rates"].items())
        position = f"epoch {report['epoch'] + 1}, batch {report['batch']}"
        message = (
            f"the loss is not finite at {position} ({terms}; learning rates {rates}){reason}; the "
            f"batch contains {_listed(report['files'])}; earlier checkpoints are intact; try a "
            "lower optimizer.lr, trainer.gradient_clip_val=1.0 or trainer.precision=32-true"
        )
        if self.on_nan == "stop":
            message += ", or set callbacks.nan_guard.on_nan=skip to skip such batches"
        if trainer.is_global_zero:
            page = write_nan_report(Path(trainer.default_root_dir), {**report, "message": message})
            message += f"; for details see {page}"
        raise TrainingError(message)

    # -- skip --------------------------------------------------------------------------------
    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Back up the buffers, which the forward pass of a bad batch would change."""
        if self.on_nan == "skip":
            if not self.open:
                self.buffers = [(buffer, buffer.clone()) for buffer in pl_module.buffers()]
            self.open.append((batch_idx, _index(batch)))

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor
    ) -> None:
        """Keep the loss for the check."""
        self.loss = loss.detach()

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any
    ) -> None:
        """Remove the gradients of a bad batch, so that the step changes nothing."""
        if self.on_nan != "skip":
            return
        # With a gradient scaler, infinite gradients are normal: it skips the step itself.
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        grads = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        norms = [] if scaled else torch._foreach_norm(grads)
        values = torch.stack([self.loss.float(), *(norm.float() for norm in norms)])
        finite = bool(torch.isfinite(values).all())
        self.stepped = True
        if trainer.strategy.reduce_boolean_decision(finite, all=True):
            return
        self.bad = True
        own = None if finite else self._skip_report(trainer, optimizer)
        report = _first_of_ranks(trainer, own)
        self._record(report)
        if not scaled:  # the scaler skips the step itself and needs the gradients for that
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None
        for buffer, before in self.buffers:
            # Not seen by autograd: a later stage may still pass gradients through this batch.
            buffer.data.copy_(before)
        if len(self.skipped) > self.max_skipped:
            limit = f" after callbacks.nan_guard.max_skipped={self.max_skipped} skipped batches"
            self._stop(trainer, report, limit)

    def _skip_report(self, trainer: L.Trainer, optimizer: Any) -> dict[str, Any]:
        files: dict[str, list[str]] = {}
        for _, index in self.open:
            for stream, names in _files(trainer, index).items():
                files.setdefault(stream, []).extend(names)
        return {
            "epoch": trainer.current_epoch,
            "batch": self.open[-1][0],
            "rank": trainer.global_rank,
            "terms": {"loss": float(self.loss)},
            "rates": {str(group["name"]): float(group["lr"]) for group in optimizer.param_groups},
            "gradients": gradient_norms(trainer),
            "files": files,
            "before": [],
        }

    def _record(self, report: Mapping[str, Any]) -> None:
        """Record a skipped batch once, even if it takes several optimizer steps, and warn."""
        entry = {key: report[key] for key in ("epoch", "batch", "files")}
        if entry not in self.skipped[-1:]:
            self.skipped.append(entry)
            rank_zero_warn(
                f"skipped batch {entry['batch']} of epoch {entry['epoch'] + 1}: its loss or "
                f"gradient is not finite ({len(self.skipped)} skipped so far); the batch contains "
                f"{_listed(entry['files'])}"
            )

    def _end_of_batch(self, module: Any) -> None:
        if self.bad:
            module.means.undo()
        if self.stepped:
            self.open, self.buffers = [], []
        self.stepped = self.bad = False


def gradient_norms(trainer: L.Trainer) -> dict[str, float]:
    """Return the current gradient norm of each parameter group."""
    result = {}
    for group in trainer.optimizers[0].param_groups:
        norms = [p.grad.detach().float().norm() for p in group["params"] if p.grad is not None]
        if norms:
            result[str(group["name"])] = float(torch.stack(norms).norm())
    return result


def _index(batch: Any) -> dict[str, Tensor]:
    return {name: part["index"].clone() for name, part in batch.items() if "index" in part}


def _files(trainer: L.Trainer, index: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Return the sample names of a batch by stream."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    splits = data.training_splits()
    return {  # plain strings, since checkpoints store the files of skipped batches
        str(stream): [str(split.names[i]) for i in index[stream].tolist() if i >= 0]
        for stream, split in splits.items()
        if stream in index
    }


def _listed(files: Mapping[str, list[str]]) -> str:
    return "; ".join(f"{stream} {shorten(names, _LISTED)}" for stream, names in files.items())


def _first_of_ranks(trainer: L.Trainer, own: dict[str, Any] | None) -> dict[str, Any]:
    """Return the report of the earliest bad batch over all ranks, the same on each of them."""
    reports: list[dict[str, Any]] = [report for report in gathered(own) if report is not None]
    return min(reports, key=lambda report: (report["epoch"], report["batch"]))
