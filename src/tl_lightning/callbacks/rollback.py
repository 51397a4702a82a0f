"""Roll-back to the last good validation when a model collapses on the target."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor

from tl_lightning.errors import ConfigError
from tl_lightning.models.adaptation import DomainAdaptation
from tl_lightning.selection.callback import Validators
from tl_lightning.selection.collapse import collapsed
from tl_lightning.selection.rules import SELECTIONS
from tl_lightning.utils.callbacks import find_callback

__all__ = ["MAX_DROP", "Rollback", "restored_values"]

#: ``max_drop`` for a target that has all classes of the source.
MAX_DROP = 0.4

#: Logged values that the selection of a model depends on.
_SELECTING = {"validator/source_val", *(str(rule.monitor) for rule in SELECTIONS.values())}


class Rollback(L.Callback):
    """Restore the last good model when the adaptation makes it predict fewer and fewer classes.

    Sun, Lu, Zhang, Ling (2022): Safe Self-Refinement for Transformer-based Domain Adaptation. CVPR,
    arXiv:2204.07683 ("safe training"). After every validation, a model is bad if it
    has collapsed (see :func:`.collapsed`, with the settings of :class:`.Validators`) or predicts a
    much smaller number of classes on the unlabelled target than an earlier good one. Source
    accuracy counts only while a model is trained on source labels: source-free models and ADDA give
    it up by design. Weights, buffers (with those of a teacher and of weight averaging) and the
    optimizer's state are then those of the last good validation, and all methods regain their
    strength from 0, see :func:`.recovered`. The position in the data and the learning rates do not
    change, so that the same batches are not repeated. The paper counts the classes in training
    batches and keeps its copy at fixed intervals; here both are done at validations. Target labels
    are never read.

    The model before training counts as a validation if ``head_init`` measured it. Models without a
    method that adds a loss cannot be rolled back, and sharded weights are not supported: nothing is
    copied then. Otherwise one copy of weights and optimizer state is kept in main memory;
    checkpoints within an epoch contain it as well.

    Args:
        max_drop: A model is bad if it predicts more than this fraction fewer classes than the
            highest number of the good models so far; in (0, 1]. ``auto`` is replaced by the checks
            of a configuration.
        max_times: Number of roll-backs, after which training continues without; 0: none.
        ramp_steps: Number of batches in which the methods regain their strength; 0: at once.

    Raises:
        ConfigError: If an argument is out of range.
    """

    def __init__(
        self, *, max_drop: float | Literal["auto"], max_times: int, ramp_steps: int
    ) -> None:
        params = {"max_drop": max_drop, "max_times": max_times, "ramp_steps": ramp_steps}
        if problems := self.check_config("callbacks.rollback", params):
            raise ConfigError(problems)
        self.max_drop = MAX_DROP if max_drop == "auto" else max_drop
        self.max_times = max_times
        self.ramp_steps = ramp_steps
        self.active = False
        #: Largest fraction of predicted classes of the good models.
        self.most = 0.0
        #: Epoch and logged values of the last good validation; -1 is the model before training.
        self.epoch, self.values = -1, dict[str, float]()
        #: Weights and optimizer state of that validation.
        self.copy: dict[str, Any] | None = None
        #: Whether the model has not been trained since; checkpoints then need no copy of it.
        self.current = False
        #: One entry per roll-back: the epoch of the bad model and of the one restored.
        self.events: list[dict[str, Any]] = []
        #: Values of the restored model until the next training step.
        self.restored: dict[str, Tensor] = {}

    @classmethod
    def check_config(cls, where: str, params: Mapping[str, Any]) -> list[str]:
        """Return one message per invalid setting."""
        problems, drop = [], params["max_drop"]
        if drop != "auto" and not 0 < drop <= 1:
            problems.append(
                f"{where}.max_drop={drop} is not in (0, 1]; set {where}.max_drop={MAX_DROP}, or "
                f"{where}=null to turn roll-backs off"
            )
        problems += [
            f"{where}.{key}={params[key]} is below 0; set {where}.{key}={default}"
            for key, default in (("max_times", 3), ("ramp_steps", 100))
            if params[key] < 0
        ]
        return problems

    def state_dict(self) -> dict[str, Any]:
        """Return the state, with the copy unless the model of the checkpoint is that copy."""
        return {
            "most": self.most,
            "epoch": self.epoch,
            "values": dict(self.values),
            "current": self.current,
            "copy": None if self.current else self.copy,
            "events": copy.deepcopy(self.events),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        self.most, self.epoch = float(state_dict["most"]), int(state_dict["epoch"])
        self.values, self.events = dict(state_dict["values"]), list(state_dict["events"])
        self.current, self.copy = bool(state_dict["current"]), state_dict["copy"]

    # -- hooks -------------------------------------------------------------------------------
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the model before training, or take the copy again when a run is resumed."""
        self.active = (
            isinstance(pl_module, DomainAdaptation)
            and any(method.adds_loss for method in pl_module.methods.values())
            and find_callback(trainer, Validators) is not None
            and isinstance(trainer.strategy, DDPStrategy | SingleDeviceStrategy)
        )
        if not self.active:
            return
        if self.events:
            self._regain(pl_module)
        if self.current:
            self.copy = _copied(trainer, pl_module)
        start = getattr(trainer.checkpoint_callback, "start_values", {})
        if trainer.ckpt_path is None and "validator/predicted" in start:
            self._look(trainer, pl_module, -1, start, start)

    def on_train_batch_start(self, *_: Any) -> None:
        """Note that the model is no longer that of the last validation."""
        self.current, self.restored = False, {}

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Copy a good model, or replace a bad one."""
        if not self.active or trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        validators = find_callback(trainer, Validators)
        assert validators is not None
        values, logged = validators.values, trainer.callback_metrics
        if "validator/predicted" in values:  # not without a target in the data
            self._look(trainer, pl_module, trainer.current_epoch, values, logged)

    # -- decision ----------------------------------------------------------------------------
    def _look(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        epoch: int,
        values: Mapping[str, float],
        logged: Mapping[str, Any],
    ) -> None:
        if len(self.events) >= self.max_times:
            self.copy = None
            return
        if not self._is_bad(trainer, module, values):
            self.most = max(self.most, values["validator/predicted"])
            self.epoch = epoch
            self.values = {k: float(v) for k, v in logged.items() if k in _SELECTING}
            self.copy = None  # at most one copy in memory
            self.copy, self.current = _copied(trainer, module), True
        elif self.copy is not None:
            self._restore(trainer, module, epoch, values)

    def _is_bad(
        self, trainer: L.Trainer, module: L.LightningModule, values: Mapping[str, float]
    ) -> bool:
        validators = find_callback(trainer, Validators)
        assert validators is not None
        assert isinstance(module, DomainAdaptation)
        predicted = values["validator/predicted"]
        learns_source = "source" in module.train_on and all(
            method.task_weight(module.progress) > 0 for method in module.methods.values()
        )
        has_collapsed = collapsed(
            values["validator/source_val"],
            validators.best_source_acc,
            validators.min_source_ratio if learns_source else 0.0,
            predicted,
            validators.min_predicted_classes,
            len(module.classes),
        )
        return has_collapsed or predicted < (1 - self.max_drop) * self.most

    def _restore(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        epoch: int,
        values: Mapping[str, float],
    ) -> None:
        assert self.copy is not None
        for name, part in _parts(trainer, module).items():
            part.load_state_dict(self.copy["parts"][name])
        for optimizer, state in zip(trainer.optimizers, self.copy["optimizers"], strict=True):
            # The schedule of the learning rates continues. A copy, because the optimizer keeps the
            # tensors it is given.
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": copy.deepcopy(state), "param_groups": groups})
        self.current = True
        self.restored = {name: torch.tensor(value) for name, value in self.values.items()}
        self.events.append({"epoch": epoch, "to": self.epoch, "batch": _next_batch(module)})
        self._regain(module)
        if trainer.is_global_zero:
            print(
                f"roll-back {len(self.events)} of at most {self.max_times}: after epoch "
                f"{epoch + 1} the model predicts {values['validator/predicted']:.0%} of the "
                f"target's classes (up to {self.most:.0%} before), source accuracy "
                f"{values['validator/source_val']:.3f}; continuing from {_name(self.epoch)}",
                flush=True,
            )

    def _regain(self, module: L.LightningModule) -> None:
        assert isinstance(module, DomainAdaptation)
        module.regain(self.events[-1]["batch"], self.ramp_steps)

    def notes(self) -> list[str]:
        """Return a note for the report if there was a roll-back.

        >>> rollback = Rollback(max_drop=0.4, max_times=3, ramp_steps=100)
        >>> rollback.events = [{"epoch": 2, "to": 1, "batch": 30}]
        >>> rollback.notes()
        ['rolled back 1 time(s), see callbacks.rollback: after epoch 3 to epoch 2']
        """
        if not self.events:
            return []
        each = [f"after epoch {one['epoch'] + 1} to {_name(one['to'])}" for one in self.events]
        return [
            f"rolled back {len(self.events)} time(s), see callbacks.rollback: {', '.join(each)}"
        ]


def restored_values(trainer: L.Trainer) -> dict[str, Tensor]:
    """Return what was logged of a model that has just been restored; empty if there is none."""
    rollback = find_callback(trainer, Rollback)
    return {} if rollback is None else rollback.restored


def _name(epoch: int) -> str:
    return "the model before training" if epoch < 0 else f"epoch {epoch + 1}"


def _next_batch(module: Any) -> int:
    return int(module.batches) + 1


def _parts(trainer: L.Trainer, module: L.LightningModule) -> dict[str, Any]:
    """Return what is copied and restored: the model, and its average if there is one."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    averages = [one._average_model for one in callbacks if isinstance(one, WeightAveraging)]
    return {"model": module, **{f"average{k}": average for k, average in enumerate(averages)}}


def _copied(trainer: L.Trainer, module: L.LightningModule) -> dict[str, Any]:
    parts = {k: _on_cpu(part.state_dict()) for k, part in _parts(trainer, module).items()}
    states = [_on_cpu(optimizer.state_dict()["state"]) for optimizer in trainer.optimizers]
    return {"parts": parts, "optimizers": states}


def _on_cpu(value: Any) -> Any:
    """Return a copy in main memory of nested mappings and lists of tensors and plain values."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _on_cpu(item) for key, item in value.items()}
    return [_on_cpu(item) for item in value] if isinstance(value, list) else copy.deepcopy(value)
