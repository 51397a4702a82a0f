"""Which model is kept, and when what is written."""

from __future__ import annotations

import os
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from tl_lightning.callbacks.nan_guard import FiniteLoss
from tl_lightning.checkpoints.io import as_before_validation, remove_drafts
from tl_lightning.errors import CheckpointError, TrainingError
from tl_lightning.loggers.csv_logger import keep_rows, rows_so_far
from tl_lightning.selection.collapse import WORST
from tl_lightning.selection.rules import SELECTIONS
from tl_lightning.utils.signals import signals

__all__ = ["SelectionCheckpoint"]


class SelectionCheckpoint(ModelCheckpoint):
    """Keep the model that the selection rule picks, under the rule's name, and the last one.

    A resumed run is the uninterrupted one only if nothing is half done in what it starts from. So
    checkpoints are written after a batch that has stepped the optimizer, before a validation (which
    is then made anew), or at an epoch's end; an error anywhere else leaves the earlier ones.

    Args:
        dirpath: Folder of the run's checkpoints.
        selection: Name of the rule.
        every_n_epochs: How often a model may be kept.
        every_n_steps: Batches between two checkpoints within an epoch, or None.
        every_minutes: Minutes after which one is written within an epoch, or None; by the first
            rank's clock.
        min_seconds: Epochs that end sooner than this after the last write are not written, but for
            the last one and those that the rule picks: an epoch on cached features is over sooner
            than its checkpoint is on the disk.
    """

    # The file name keeps the rule; "=" would make it unusable on a Hydra command line.
    CHECKPOINT_EQUALS_CHAR = "_"

    def __init__(
        self,
        *,
        dirpath: str,
        selection: str,
        every_n_epochs: int,
        every_n_steps: int | None,
        every_minutes: float | None,
        min_seconds: float,
    ) -> None:
        rule = SELECTIONS[selection]
        super().__init__(
            dirpath=dirpath,
            filename=f"{selection}-epoch{{epoch:03d}}",
            auto_insert_metric_name=False,
            monitor=rule.monitor,
            mode=rule.mode,
            save_top_k=1,
            save_last=True,
            save_on_exception=True,
            every_n_epochs=every_n_epochs,
            enable_version_counter=False,
        )
        #: What may be saved now: a ``batch``, ``validation`` or ``epoch`` stands; empty: nothing.
        self.place: Literal["", "batch", "validation", "epoch"] = ""
        self.kept_source_acc = 0.0
        self.every_n_steps = every_n_steps
        self.every_minutes = every_minutes
        self.min_seconds = min_seconds
        self.written = 0.0
        self.started = 0.0
        self.stale: list[str] = []
        #: Whether the run goes on from a checkpoint of its own folder.
        self.from_here = False

    # -- what is kept ------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Add the source accuracy of the model that is kept."""
        return {**super().state_dict(), "kept_source_acc": self.kept_source_acc}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from it; checkpoints from before there was a floor hold none."""
        super().load_state_dict(self._where_it_lies(state_dict))
        self.kept_source_acc = state_dict.get("kept_source_acc", 0.0)
        self.current_score = state_dict.get("current_score")
        if self.monitor is not None and not Path(self.best_model_path).is_file():
            # Gone since: the run had found a better one, and will find it again.
            self.best_k_models, self.best_model_path, self.kth_best_model_path = {}, "", ""

    def _where_it_lies(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return the state of a run whose folder has another name now, with the model it keeps."""
        kept = str(Path(str(self.dirpath)) / Path(state["best_model_path"]).name)
        if not self.from_here or not Path(kept).is_file():
            return state
        scores = dict(zip([kept], state["best_k_models"].values(), strict=False))
        paths = dict.fromkeys(("best_model_path", "kth_best_model_path"), kept)
        return {**state, **paths, "dirpath": self.dirpath, "best_k_models": scores}

    def check_monitor_top_k(self, trainer: L.Trainer, current: Tensor | None = None) -> bool:
        """Return whether this model is better; one kept below today's floor has no score left.

        Early models are all bad on the source, so the floor rises: what passed it then may be
        below it now.
        """
        values = trainer.callback_metrics
        floor = values.get("validator/floor")
        if self._by_floor and floor is not None and self.kept_source_acc < float(floor):
            self._demote()
        better = super().check_monitor_top_k(trainer, current)
        if better and "validator/source_val" in values:
            self.kept_source_acc = float(values["validator/source_val"])
        return better

    @property
    def _by_floor(self) -> bool:
        return str(self.monitor).startswith("validator/floored/")

    def _demote(self) -> None:
        worst = torch.tensor(WORST + self.kept_source_acc)
        self.best_k_models = dict.fromkeys(self.best_k_models, worst)
        self.best_model_score = self.kth_value = worst

    # -- when it is written ------------------------------------------------------------------
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock, and let signals wait for a place that can be saved."""
        super().on_train_start(trainer, pl_module)
        self.started = monotonic()
        if trainer.ckpt_path is None:  # what stands in the log is an earlier attempt's
            keep_rows(trainer, {"columns": [], "count": 0, "row": None})
        if trainer.is_global_zero and self.dirpath:
            remove_drafts(Path(self.dirpath))
        signals.gentle = True

    def on_train_batch_start(self, *_: Any) -> None:
        """Save nothing within a step."""
        self.place = ""

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save where it is due or a signal asks for it; an epoch's last batch has its own time."""
        if trainer.is_last_batch or trainer.global_step == trainer.max_steps:
            return
        steps, rest = divmod(batch_idx + 1, trainer.accumulate_grad_batches)
        if rest:  # gradients are not saved
            return
        self.place = "batch"
        # Ranks ask each other, which takes longer than looking at a clock.
        if trainer.world_size == 1 or steps % 10 == 1:
            self._end_if_asked(trainer)
            if self._due_by_clock(trainer):
                self._save_last(trainer)
                return
        if self.every_n_steps and steps % self.every_n_steps == 0:
            self._save_last(trainer)

    def _due_by_clock(self, trainer: L.Trainer) -> bool:
        if self.every_minutes is None:
            return False
        since = monotonic() - max(self.written, self.started)
        return bool(trainer.strategy.broadcast(since >= 60 * self.every_minutes))

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember that the epoch's batches are done and its validation is not."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.place = "validation"
            # A validation made anew counts from nothing, as any does.
            trainer.fit_loop.epoch_loop.val_loop.batch_progress.reset()

    def on_validation_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Save and end if a signal asks for it."""
        if self.place == "validation" and (trainer.world_size == 1 or batch_idx % 10 == 0):
            self._end_if_asked(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write nothing: the epoch's end is near, where all of its figures stand."""
        self.place = ""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write, unless the last write was a moment ago."""
        self.place = "epoch"
        # Where no validation was made the rule has nothing new to compare.
        compares = self.monitor is None or trainer.fit_loop.epoch_loop._should_check_val_epoch()
        if compares and (self.monitor is not None or not self._too_soon(trainer)):
            super().on_train_epoch_end(trainer, pl_module)
        self._keep_last(trainer)
        self._end_if_asked(trainer)
        self.place = ""

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End here if a signal came too late to be seen: everything is written."""
        super().on_train_end(trainer, pl_module)
        signals.gentle = False
        if signals.received:
            signals.end()

    def _should_save_on_train_epoch_end(self, trainer: L.Trainer) -> bool:
        return True

    def _keep_last(self, trainer: L.Trainer) -> None:
        """Write the last epoch's model too where another one is kept: a resumed run needs it.

        Lightning writes it together with a better one only.
        """
        if self._should_skip_saving_checkpoint(trainer) or self._too_soon(trainer):
            return
        if (trainer.current_epoch + 1) % self._every_n_epochs == 0:
            self._save_last(trainer)

    def _too_soon(self, trainer: L.Trainer) -> bool:
        """Whether the first rank's clock says so; the last epoch is always written."""
        epochs, steps = trainer.max_epochs or -1, trainer.max_steps
        ends = trainer.current_epoch + 1 == epochs or 0 < steps <= trainer.global_step
        if ends or trainer.should_stop:
            return False
        since = monotonic() - self.written
        return bool(trainer.strategy.broadcast(since < self.min_seconds))

    def _end_if_asked(self, trainer: L.Trainer) -> None:
        """Save and end on all ranks where any of them has got a signal."""
        number = signals.received
        if trainer.world_size > 1:
            asked = torch.tensor(number, device=trainer.strategy.root_device)
            number = int(trainer.strategy.reduce(asked, reduce_op="max"))
        if number:
            signals.received = number
            if self._last_global_step_saved != trainer.global_step:
                self._save_last(trainer)
            self.place = ""
            signals.end()

    def _save_last(self, trainer: L.Trainer) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, FiniteLoss):
                callback.look(trainer)
        self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def _save_last_checkpoint(
        self, trainer: L.Trainer, monitor_candidates: dict[str, Tensor]
    ) -> None:
        super()._save_last_checkpoint(trainer, monitor_candidates)
        # Only now does no checkpoint speak of what has been replaced.
        while self.stale:
            super()._remove_checkpoint(trainer, self.stale.pop())

    def _remove_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        self.stale.append(filepath)

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        super()._save_checkpoint(trainer, filepath)
        self.written = monotonic()

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add where the log stands; a run cut in a validation makes that anew."""
        checkpoint["log"] = rows_so_far(trainer, ends_epoch=self.place == "epoch")
        if self.place == "validation":
            as_before_validation(checkpoint)

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take out of the log what the resumed run will log again."""
        if trainer.state.fn == "fit":
            keep_rows(trainer, checkpoint.get("log"))
            self.from_here = os.path.realpath(Path(str(trainer.ckpt_path)).parent) == self.dirpath

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Save what stands; never a broken model or a half step, nor on a full disk.

        Nor where there are other ranks, which are not here and would be waited for.
        """
        signals.gentle = False
        stands = self.place and not isinstance(exception, TrainingError | CheckpointError)
        new = self._last_global_step_saved != trainer.global_step
        if stands and new and trainer.world_size == 1:
            self._save_last(trainer)
