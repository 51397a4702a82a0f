"""Which model is kept, and how its file reaches the disk whole."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from tl_lightning.errors import CheckpointError, TrainingError
from tl_lightning.floor import WORST

__all__ = [
    "SELECTIONS",
    "AtomicCheckpointIO",
    "Selection",
    "SelectionCheckpoint",
    "read_checkpoint",
]


@dataclass(frozen=True)
class Selection:
    """A rule that picks the epoch whose model is kept and tested.

    Attributes:
        monitor: The logged value, or None for the last epoch.
        mode: Whether large or small values win.
        needs_target: Whether target pictures (never labels) are needed.
        uses_target_labels: Whether the rule peeks; only ``oracle`` does.
        words: What the report says of it.
    """

    monitor: str | None
    mode: Literal["min", "max"]
    needs_target: bool
    uses_target_labels: bool
    words: str


def _unlabelled(name: str, words: str) -> Selection:
    """Return a rule by a score of ``callbacks/validators.py``."""
    words = f"{words} of models that have not collapsed, target unlabelled"
    return Selection(f"validator/floored/{name}", "max", True, False, words)


SELECTIONS = {
    "source_val": Selection(
        "source/val/acc", "max", False, False, "highest accuracy on labelled source validation"
    ),
    "im": _unlabelled("im", "highest information maximisation"),
    "entropy": _unlabelled("entropy", "lowest prediction entropy"),
    "bnm": _unlabelled("bnm", "highest nuclear norm of the predictions"),
    "snd": _unlabelled("snd", "highest soft neighbourhood density"),
    "dev": _unlabelled("dev", "lowest deep embedded validation risk"),
    "iwcv": _unlabelled("iwcv", "lowest importance-weighted source risk"),
    "last": Selection(None, "max", False, False, "the last epoch"),
    "oracle": Selection(
        "target/val/acc", "max", True, True, "highest accuracy on target validation: USES LABELS"
    ),
}


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint under a temporary name beside its place, sync it, then rename it.

    Lightning writes to ``$TMPDIR`` and moves: across file systems that is a copy, and a kill or a
    full disk leaves half a file under the final name.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Save ``checkpoint`` so that ``path`` holds the old file or the whole new one."""
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = place.with_name(f".{place.name}.{os.getpid()}.tmp")
        try:
            with open(draft, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, place)
        except (OSError, RuntimeError) as error:
            if isinstance(error.__context__, KeyboardInterrupt):
                # torch closes its archive all the same, and complains that it is not whole.
                raise KeyboardInterrupt from None
            free = shutil.disk_usage(place.parent).free // 2**20
            raise CheckpointError(
                f"cannot write checkpoint {place}: {error} ({free} MiB free there); make room and "
                "resume, or set hydra.run.dir to another disk; earlier checkpoints are intact"
            ) from error
        finally:
            draft.unlink(missing_ok=True)


class SelectionCheckpoint(ModelCheckpoint):
    """Keep the model that the selection rule picks, under the rule's name, and the last one.

    Args:
        dirpath: Folder of the run's checkpoints.
        selection: Name of the rule.
        every_n_epochs: How often a model may be kept.
        min_seconds: Epochs that end sooner than this after the last write are not written, but for
            the last one and those that the rule picks: an epoch on cached features is over sooner
            than its checkpoint is on the disk.
    """

    # The file name keeps the rule; "=" would make it unusable on a Hydra command line.
    CHECKPOINT_EQUALS_CHAR = "_"

    def __init__(
        self, *, dirpath: str, selection: str, every_n_epochs: int, min_seconds: float
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

        self.began = False
        self.kept_source_acc = 0.0
        self.min_seconds = min_seconds
        self.written = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Add the source accuracy of the model that is kept."""
        return {**super().state_dict(), "kept_source_acc": self.kept_source_acc}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from it; checkpoints from before there was a floor hold none."""
        super().load_state_dict(state_dict)
        self.kept_source_acc = state_dict.get("kept_source_acc", 0.0)

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

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember that the run stands: only from here on is there anything worth saving."""
        super().on_train_start(trainer, pl_module)
        self.began = True

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write, unless the last write was a moment ago."""
        if self.monitor is not None or not self._too_soon(trainer):
            super().on_train_epoch_end(trainer, pl_module)
        if self._should_save_on_train_epoch_end(trainer):
            self._keep_last(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write, unless the last write was a moment ago."""
        if self.monitor is not None or not self._too_soon(trainer):
            super().on_validation_end(trainer, pl_module)
        if not self._should_save_on_train_epoch_end(trainer):
            self._keep_last(trainer)

    def _keep_last(self, trainer: L.Trainer) -> None:
        """Write the last epoch's model too where another one is kept: a resumed run needs it.

        Lightning writes it together with a better one only.
        """
        if self._should_skip_saving_checkpoint(trainer) or self._too_soon(trainer):
            return
        if (trainer.current_epoch + 1) % self._every_n_epochs == 0:
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def _too_soon(self, trainer: L.Trainer) -> bool:
        """Whether the first rank's clock says so; the last epoch is always written."""
        epochs, steps = trainer.max_epochs or -1, trainer.max_steps
        ends = trainer.current_epoch + 1 == epochs or 0 < steps <= trainer.global_step
        if ends or trainer.should_stop:
            return False
        since = monotonic() - self.written
        return bool(trainer.strategy.broadcast(since < self.min_seconds))

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        super()._save_checkpoint(trainer, filepath)
        self.written = monotonic()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Save on an interruption, but never a broken model, a full disk or a failed start.

        A start that fails while it restores a checkpoint would overwrite it with half of itself.
        """
        if self.began and not isinstance(exception, TrainingError | CheckpointError):
            super().on_exception(trainer, pl_module, exception)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what a checkpoint of ours holds, without executing anything in it.

    Raises:
        CheckpointError: If the file is missing, broken or not one of ours.
    """
    if not path.is_file():
        raise CheckpointError(
            f"no checkpoint at checkpoint={path}; type the path of a .ckpt file below a run's "
            "checkpoints/"
        )
    try:
        stored: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken archive raises many kinds
        raise CheckpointError(
            f"checkpoint={path} is broken or holds more than tensors and plain values "
            f"({type(error).__name__}); use another of the run's checkpoints"
        ) from error
    if not isinstance(stored, dict) or "config" not in stored.get("hyper_parameters", {}):
        raise CheckpointError(
            f"checkpoint={path} was not written by tl_lightning; for plain weights type "
            "backbone.weights=<file>"
        )
    return stored
