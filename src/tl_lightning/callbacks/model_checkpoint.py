"""Model checkpointing: selection of the best model, and when checkpoints are written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from tl_lightning.callbacks.nan_guard import NaNGuard
from tl_lightning.callbacks.rollback import restored_values
from tl_lightning.checkpoints.io import as_before_validation, remove_drafts
from tl_lightning.errors import CheckpointError, TrainingError
from tl_lightning.loggers.csv_logger import keep_rows, rows_so_far
from tl_lightning.selection.collapse import WORST
from tl_lightning.selection.rules import rule_of
from tl_lightning.utils.signals import signals

__all__ = ["START", "SelectionCheckpoint"]

#: End of the file name of a model that was saved before training.
START = "-start"


class SelectionCheckpoint(ModelCheckpoint):
    """Save the model chosen by the selection rule, named after the rule, and the last one.

    A resumed run equals an uninterrupted one only if a checkpoint contains no half-finished work.
    Checkpoints are therefore written after a batch with an optimizer step, before a validation
    (which is then repeated), or at the end of an epoch. An error at any other point leaves the
    earlier checkpoints unchanged.

    Args:
        dirpath: Checkpoint folder of the run.
        selection: Name of the selection rule.
        every_n_epochs: Epochs between two checkpoints.
        every_n_steps: Optimizer steps between two checkpoints within an epoch, or None.
        every_minutes: Minutes between two checkpoints within an epoch, or None; measured on rank 0.
        task: Kind of the main task, see :func:`.rule_of`.
        min_seconds: Skip the checkpoint of an epoch that ends within this time after the previous
            write, unless it is the last epoch or chosen by the rule. On cached features an epoch
            takes less time than writing its checkpoint.
    """

    # The file name contains the rule; "=" would have to be quoted on a Hydra command line.
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
        task: str = "classification",
    ) -> None:
        self.rule = selection
        rule = rule_of(selection, task)
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
        #: Point of training that can be saved now; empty within a step or validation.
        self.place: Literal["", "batch", "validation", "epoch"] = ""
        self.kept_source_acc = 0.0
        self.every_n_steps = every_n_steps
        self.every_minutes = every_minutes
        self.min_seconds = min_seconds
        self.written = 0.0
        self.started = 0.0
        self.stale: list[str] = []
        #: Values logged of the model before training, if it can be selected as well.
        self.start_values: Mapping[str, float] = {}
        #: Whether the model before training is kept for a comparison after training.
        self.keeps_start = False
        #: Whether the run was resumed from a checkpoint in its own folder.
        self.from_here = False

    # -- model selection ---------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Add the source accuracy of the best model."""
        return {**super().state_dict(), "kept_source_acc": self.kept_source_acc}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best model."""
        super().load_state_dict(self._relocated(state_dict))
        self.kept_source_acc = state_dict["kept_source_acc"]
        self.current_score = state_dict.get("current_score")
        if self.monitor is not None and not Path(self.best_model_path).is_file():
            # The file was replaced by a better one after this checkpoint, in epochs run again now.
            self.best_k_models, self.best_model_path, self.kth_best_model_path = {}, "", ""

    def _relocated(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return the state with the best model's path updated if the run folder was moved."""
        best = str(Path(str(self.dirpath)) / Path(state["best_model_path"]).name)
        if not self.from_here or not Path(best).is_file():
            return state
        scores = dict(zip([best], state["best_k_models"].values(), strict=False))
        paths = {key: best for key in ("best_model_path", "kth_best_model_path") if state[key]}
        return {**state, **paths, "dirpath": self.dirpath, "best_k_models": scores}

    def check_monitor_top_k(self, trainer: L.Trainer, current: Tensor | None = None) -> bool:
        """Return whether this model is better than the best one so far.

        The accuracy threshold of the collapse filter rises with the best source accuracy, so a
        model that passed it in an early epoch may have to be demoted now.
        """
        values = {**trainer.callback_metrics, **restored_values(trainer)}
        threshold = values.get("validator/floor")
        filtered = str(self.monitor).startswith("validator/floored/")
        if filtered and threshold is not None and self.kept_source_acc < float(threshold):
            self._demote()
        better = super().check_monitor_top_k(trainer, current)
        if better and "validator/source_val" in values:
            self.kept_source_acc = float(values["validator/source_val"])
        return better

    def _monitor_candidates(self, trainer: L.Trainer) -> dict[str, Tensor]:
        """Return the logged values; after a roll-back, those of the model that was restored."""
        return {**super()._monitor_candidates(trainer), **restored_values(trainer)}

    def _demote(self) -> None:
        worst = torch.tensor(WORST + self.kept_source_acc)
        self.best_k_models = dict.fromkeys(self.best_k_models, worst)
        self.best_model_score = self.kth_value = worst

    # -- writing checkpoints -----------------------------------------------------------------
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the timer, and defer signals to the next point that can be saved."""
        super().on_train_start(trainer, pl_module)
        self.started = monotonic()
        if trainer.ckpt_path is None:  # remove the rows of an earlier attempt from the log
            keep_rows(trainer, {"columns": [], "count": 0, "row": None})
        if trainer.is_global_zero and self.dirpath:
            remove_drafts(Path(self.dirpath))
        if trainer.ckpt_path is None:
            self._save_start(trainer)
        signals.gentle = True

    def _save_start(self, trainer: L.Trainer) -> None:
        """Save the model before training, which later epochs have to surpass."""
        path = str(Path(str(self.dirpath)) / f"{self.rule}{START}.ckpt")
        if self.monitor not in self.start_values:
            if self.keeps_start:
                self._save_checkpoint(trainer, path)
            return
        score = torch.tensor(self.start_values[str(self.monitor)])
        self.best_model_path = self.kth_best_model_path = path
        self.best_k_models = {path: score}
        self.best_model_score = self.kth_value = score
        self.kept_source_acc = self.start_values.get("validator/source_val", 0.0)
        self._save_checkpoint(trainer, path)

    def on_train_batch_start(self, *_: Any) -> None:
        """Prevent saving within a step."""
        self.place = ""

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save if due or after a signal, except at the last batch of an epoch, saved separately."""
        if trainer.is_last_batch or trainer.global_step == trainer.max_steps:
            return
        steps, pending = divmod(batch_idx + 1, trainer.accumulate_grad_batches)
        if pending:  # accumulated gradients are not part of a checkpoint
            return
        self.place = "batch"
        # With several ranks this needs communication, so it is not done in every step.
        if trainer.world_size == 1 or steps % 10 == 1:
            self._exit_on_signal(trainer)
            if self._time_is_up(trainer):
                self._save_last(trainer)
                return
        if self.every_n_steps and steps % self.every_n_steps == 0:
            self._save_last(trainer)

    def _time_is_up(self, trainer: L.Trainer) -> bool:
        if self.every_minutes is None:
            return False
        elapsed = monotonic() - max(self.written, self.started)
        return bool(trainer.strategy.broadcast(elapsed >= 60 * self.every_minutes))

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Mark that the epoch's batches are done and its validation is not."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.place = "validation"
            # A repeated validation starts counting from 0.
            trainer.fit_loop.epoch_loop.val_loop.batch_progress.reset()

    def on_validation_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Save and exit after a signal."""
        if self.place == "validation" and (trainer.world_size == 1 or batch_idx % 10 == 0):
            self._exit_on_signal(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Prevent saving until the end of the epoch, when all of its metrics are known."""
        self.place = ""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the best and the last model, unless the previous write was too recent."""
        self.place = "epoch"
        # Without a validation in this epoch the monitored value has not changed.
        compares = self.monitor is None or trainer.fit_loop.epoch_loop._should_check_val_epoch()
        if compares and (self.monitor is not None or not self._too_soon(trainer)):
            super().on_train_epoch_end(trainer, pl_module)
        self._keep_last(trainer)
        self._exit_on_signal(trainer)
        self.place = ""

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Exit after a signal that arrived too late to be handled; everything is written."""
        super().on_train_end(trainer, pl_module)
        signals.gentle = False
        if signals.received:
            signals.end()

    def _should_save_on_train_epoch_end(self, trainer: L.Trainer) -> bool:
        return True

    def _keep_last(self, trainer: L.Trainer) -> None:
        """Save the last epoch even if it is not the best: a resumed run needs it.

        Lightning updates ``last.ckpt`` only together with a new best model.
        """
        if self._should_skip_saving_checkpoint(trainer) or self._too_soon(trainer):
            return
        if (trainer.current_epoch + 1) % self._every_n_epochs == 0:
            self._save_last(trainer)

    def _too_soon(self, trainer: L.Trainer) -> bool:
        """Return whether the previous write was too recent; never in the last epoch."""
        epochs, steps = trainer.max_epochs or -1, trainer.max_steps
        ends = trainer.current_epoch + 1 == epochs or 0 < steps <= trainer.global_step
        if ends or trainer.should_stop:
            return False
        elapsed = monotonic() - self.written
        return bool(trainer.strategy.broadcast(elapsed < self.min_seconds))

    def _exit_on_signal(self, trainer: L.Trainer) -> None:
        """Save and exit on all ranks if any of them has received a signal."""
        number = signals.received
        if trainer.world_size > 1:
            received = torch.tensor(number, device=trainer.strategy.root_device)
            number = int(trainer.strategy.reduce(received, reduce_op="max"))
        if number:
            signals.received = number
            if self._last_global_step_saved != trainer.global_step:
                self._save_last(trainer)
            self.place = ""
            signals.end()

    def _save_last(self, trainer: L.Trainer) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, NaNGuard):
                callback.look(trainer)
        self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def _save_last_checkpoint(
        self, trainer: L.Trainer, monitor_candidates: dict[str, Tensor]
    ) -> None:
        super()._save_last_checkpoint(trainer, monitor_candidates)
        # Remove replaced files only now that no checkpoint refers to them any more.
        while self.stale:
            super()._remove_checkpoint(trainer, self.stale.pop())

    def _remove_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        if not (self.keeps_start and Path(filepath).stem.endswith(START)):
            self.stale.append(filepath)

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        super()._save_checkpoint(trainer, filepath)
        self.written = monotonic()

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the position in the log; a validation that was interrupted is repeated."""
        checkpoint["log"] = rows_so_far(trainer, ends_epoch=self.place == "epoch")
        if self.place == "validation":
            as_before_validation(checkpoint)

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remove the log rows that the resumed run will write again."""
        if trainer.state.fn == "fit":
            keep_rows(trainer, checkpoint.get("log"))
            self.from_here = os.path.realpath(Path(str(trainer.ckpt_path)).parent) == self.dirpath

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Save if training is at a point that can be saved.

        Never after a training error, within a step or on a full disk; nor with several ranks, since
        the others are not at this point and saving would wait for them.
        """
        signals.gentle = False
        valid = self.place and not isinstance(exception, TrainingError | CheckpointError)
        new = self._last_global_step_saved != trainer.global_step
        if valid and new and trainer.world_size == 1:
            self._save_last(trainer)
