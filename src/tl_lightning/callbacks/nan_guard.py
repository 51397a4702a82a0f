"""A loss that is not finite: stop before it spoils a checkpoint, or leave its batch out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from tl_lightning.errors import TrainingError
from tl_lightning.reporting.run.nan_report import write_autopsy

__all__ = ["FiniteLoss"]

#: Files that a sentence names; the autopsy has them all.
_NAMED = 4
#: Steps before the bad one whose losses it shows.
_BEFORE = 10


@dataclass
class _Step:
    """What is known of a step without waiting for the device."""

    epoch: int
    batch: int
    loss: Tensor
    terms: Mapping[str, Tensor]
    index: dict[str, Tensor]
    rates: dict[str, float]


class FiniteLoss(L.Callback):
    """Look at the loss every ``every_n_steps`` and at each epoch's last step.

    A look waits for the device, so it is not made in every step; it finds the first bad step of
    those since the last look. The last step of an epoch is always looked at because a checkpoint
    follows it. ``skip`` looks in every step, before the optimizer's: where the loss or a gradient
    is not finite on any rank, no rank takes the step, and buffers (batch norm's statistics) are as
    they were before the batch.

    Args:
        every_n_steps: Steps between two looks where ``on_nan`` is ``stop``.
        on_nan: What happens then.
        max_skipped: Most batches that are left out before the run stops all the same.
    """

    def __init__(
        self, *, every_n_steps: int, on_nan: Literal["stop", "skip"], max_skipped: int
    ) -> None:
        self.every_n_steps = every_n_steps
        self.on_nan = on_nan
        self.max_skipped = max_skipped
        self.recent: list[_Step] = []
        self.before: list[tuple[int, int, float]] = []
        #: The batches that were left out: epoch, batch, files.
        self.skipped: list[dict[str, Any]] = []
        self.loss = torch.tensor(0.0)
        self.norms: dict[str, float] = {}
        #: Batches that the next optimizer step stands for, and buffers as they were before them.
        self.open: list[tuple[int, dict[str, Tensor]]] = []
        self.buffers: list[tuple[Tensor, Tensor]] = []
        self.stepped = self.bad = False

    @classmethod
    def faults(cls, where: str, knobs: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with the settings, a sentence each."""
        return [
            f"{where}.{key}={knobs[key]} is below {least}; type {where}.{key}={least} or more"
            for key, least in (("every_n_steps", 1), ("max_skipped", 0))
            if knobs[key] < least
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return which batches were left out."""
        return {"skipped": list(self.skipped)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
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
        """Raise TrainingError if a loss since the last look is NaN or infinite."""
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
        """Raise TrainingError if a loss since the last look is not finite; all ranks look at once.

        Whoever writes a checkpoint within an epoch looks first.
        """
        recent, self.recent = self.recent, []
        if not recent:
            return
        losses = torch.stack([one.loss for one in recent]).tolist()
        finite = [math.isfinite(loss) for loss in losses]
        places = [(one.epoch, one.batch) for one in recent]
        steps = [(*place, loss) for place, loss in zip(places, losses, strict=True)]
        if all(finite):
            self.before = [*self.before, *steps][-_BEFORE:]
        else:
            self.before = [*self.before, *steps[: finite.index(False)]][-_BEFORE:]
        if trainer.strategy.reduce_boolean_decision(all(finite), all=True):
            return
        mine = None if all(finite) else self._found(trainer, recent, finite.index(False))
        found = _of_all_ranks(trainer, mine)
        found["gradients"] = gradient_norms(trainer)
        self._stop(trainer, found, "")

    def _found(self, trainer: L.Trainer, recent: list[_Step], place: int) -> dict[str, Any]:
        step = recent[place]
        return {
            "epoch": step.epoch,
            "batch": step.batch,
            "rank": trainer.global_rank,
            "terms": {name: float(value) for name, value in step.terms.items()},
            "rates": step.rates,
            "files": _files(trainer, step.index),
            "before": self.before,
        }

    def _stop(self, trainer: L.Trainer, found: dict[str, Any], why: str) -> None:
        terms = ", ".join(f"{name} {value:.4g}" for name, value in found["terms"].items())
        rates = ", ".join(f"{name} {value:.3g}" for name, value in found["rates"].items())
        place = f"epoch {found['epoch']}, batch {found['batch']}"
        words = (
            f"the loss is not finite at {place} ({terms}; learning rates {rates}){why}; the batch "
            f"shows {_shown(found['files'])}; checkpoints before this are intact: try a lower "
            "optimizer.lr, trainer.gradient_clip_val=1.0 or trainer.precision=32-true"
        )
        if self.on_nan == "stop":
            words += ", or callbacks.finite.on_nan=skip to leave such batches out"
        if trainer.is_global_zero:
            page = write_autopsy(Path(trainer.default_root_dir), {**found, "words": words})
            words += f"; more in {page}"
        raise TrainingError(words)

    # -- skip --------------------------------------------------------------------------------
    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember what a batch may spoil."""
        if self.on_nan == "skip":
            if not self.open:
                self.buffers = [(one, one.clone()) for one in pl_module.buffers()]
            self.open.append((batch_idx, _index(batch)))

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor
    ) -> None:
        """Remember the loss."""
        self.loss = loss.detach()

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any
    ) -> None:
        """Take the gradients away where the batch is left out: nothing moves then."""
        if self.on_nan != "skip":
            return
        # A gradient scaler meets gradients that are not finite as a matter of course.
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        grads = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        norms = [] if scaled else torch._foreach_norm(grads)
        values = torch.stack([self.loss.float(), *(norm.float() for norm in norms)])
        fine = bool(torch.isfinite(values).all())
        self.stepped = True
        if trainer.strategy.reduce_boolean_decision(fine, all=True):
            return
        self.bad = True
        found = _of_all_ranks(trainer, None if fine else self._autopsy(trainer, optimizer))
        self._note(found)
        if not scaled:  # it takes no step itself, and counts on finding them
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None
        with torch.no_grad():
            for buffer, before in self.buffers:
                buffer.copy_(before)
        if len(self.skipped) > self.max_skipped:
            why = f" and callbacks.finite.max_skipped={self.max_skipped} batches were left out"
            self._stop(trainer, found, why)

    def _autopsy(self, trainer: L.Trainer, optimizer: Any) -> dict[str, Any]:
        files: dict[str, list[str]] = {}
        for _, index in self.open:
            for role, names in _files(trainer, index).items():
                files.setdefault(role, []).extend(names)
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

    def _note(self, found: Mapping[str, Any]) -> None:
        """Remember what no step is taken for, once a batch, though it may have several stages."""
        mine = {key: found[key] for key in ("epoch", "batch", "files")}
        if mine not in self.skipped[-1:]:
            self.skipped.append(mine)
            rank_zero_warn(
                f"epoch {mine['epoch']}, batch {mine['batch']} was left out: its loss or gradient "
                f"is not finite ({len(self.skipped)} so far); it shows {_shown(mine['files'])}"
            )

    def _end_of_batch(self, module: Any) -> None:
        if self.bad:
            module.means.undo()
        if self.stepped:
            self.open, self.buffers = [], []
        self.stepped = self.bad = False


def gradient_norms(trainer: L.Trainer) -> dict[str, float]:
    """Return the norm of each parameter group's present gradient."""
    found = {}
    for group in trainer.optimizers[0].param_groups:
        norms = [p.grad.detach().float().norm() for p in group["params"] if p.grad is not None]
        if norms:
            found[str(group["name"])] = float(torch.stack(norms).norm())
    return found


def _index(batch: Any) -> dict[str, Tensor]:
    return {role: part["index"].clone() for role, part in batch.items() if "index" in part}


def _files(trainer: L.Trainer, index: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Return the names of a batch's pictures by their stream."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    splits = data.training_splits()
    return {
        role: [str(splits[role].names[place]) for place in places.tolist() if place >= 0]
        for role, places in index.items()
        if role in splits
    }


def _shown(files: Mapping[str, list[str]]) -> str:
    parts = []
    for role, names in files.items():
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        parts.append(f"{role} {', '.join(names[:_NAMED])}{more}")
    return "; ".join(parts)


def _of_all_ranks(trainer: L.Trainer, mine: dict[str, Any] | None) -> dict[str, Any]:
    """Return what the first rank found that found anything, the same on all."""
    every: list[dict[str, Any] | None] = [mine]
    if trainer.world_size > 1:
        every = [None] * trainer.world_size
        dist.all_gather_object(every, mine)
    found = [one for one in every if one is not None]
    return min(found, key=lambda one: (one["epoch"], one["batch"]))
