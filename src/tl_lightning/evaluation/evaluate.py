"""Test of a checkpoint on its own data or on other data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tl_lightning.checkpoints.io import read_model
from tl_lightning.config.allowlist import stored_problems
from tl_lightning.config.compose import with_values
from tl_lightning.config.validation.check import check
from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.errors import ConfigError
from tl_lightning.evaluation.load import rebuilt
from tl_lightning.evaluation.nodes import stored_section
from tl_lightning.training.build import aux_label_info
from tl_lightning.training.trainer import make_trainer
from tl_lightning.utils.process import keep_memory, quiet
from tl_lightning.utils.signals import signals

__all__ = ["evaluate"]

#: Settings of training and selection, which do not count here: the data need no target.
_NOT_TRAINED: dict[str, Any] = {
    "model": {"_target_": "tl_lightning.models.FineTuning", "name": "evaluated"},
    "selection": "last", "interpolation": None, "track_target": False, "method": {},
    "baselines": [], "regularizer": {},
    "lr_find": False, "init": None, "resume": None, "phases": None, "task_weighting": "fixed",
    "callbacks": {}, "logger": {}, "cache.features": "off", "checkpointing.every_n_epochs": 1,
    "data.batch_size": 1,  # there may be too few samples for a training batch
}  # fmt: skip


def evaluate(
    checkpoint: str | Path,
    data: Mapping[str, Any] | None = None,
    trainer: Mapping[str, Any] | None = None,
    allow: Sequence[str] = (),
) -> dict[str, Any]:
    """Test a checkpoint; without other data or trainer, reproduce the test metrics of its run.

    Args:
        checkpoint: A ``.ckpt`` file written by this framework.
        data: Data node to use instead of the checkpoint's.
        trainer: Trainer node to use instead of the checkpoint's.
        allow: Full names of additional classes that the checkpoint's configuration may build.

    Returns:
        ``{"metrics": {...}, "data": name, "classes": [...]}``.

    Raises:
        CheckpointError: If the checkpoint cannot be read.
        ConfigError: If its configuration names a class that must not be built, or the classes of
            the data are others.
        DataError: If the data cannot be used.
    """
    quiet()
    keep_memory()
    stored = read_model(Path(checkpoint))
    module = rebuilt(stored, checkpoint, allow)
    given = {name: node for name, node in (("data", data), ("trainer", trainer)) if node}
    kept = {name: stored_section(stored, name) for name in ("data", "trainer") if name not in given}
    if problems := stored_problems(kept, allow):
        raise ConfigError([f"checkpoint {checkpoint}: {problem}" for problem in problems])
    # Its own ``allow`` is ignored.
    run = check(_testing({**stored.config, **kept, **given, "allow": list(allow)}))
    found: TransferDataModule = run.data.build()
    classes = found.discover(input_state=module.input_state).classes
    if classes != stored.classes:
        raise ConfigError(
            f"checkpoint={checkpoint} was trained on the classes "
            f"{', '.join(stored.classes[:5])}, ..., but data={found.name} has "
            f"{', '.join(classes[:5])}, ...; use data with the same classes"
        )
    aux_label_info(run, found, stored.aux_tasks)
    trained_on = tuple(d for d in module.train_on if d == "source" or run.target)
    found.prepare(replace(module.needs(), train_on=trained_on, strong=False))
    tester = make_trainer(run.trainer, logger=False, enable_checkpointing=False)
    with signals.watched():
        tester.test(module, datamodule=found, verbose=False)
    metrics = {name: float(value) for name, value in tester.callback_metrics.items()}
    return {"metrics": metrics, "data": found.name, "classes": list(classes)}


def _testing(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a run, changed so that it only tests."""
    found = with_values(config, _NOT_TRAINED)
    # Auxiliary tasks whose label column these data do not have are left out.
    data, tasks = found["data"], found["aux_tasks"]
    columns = (None, *(data.get("label_columns") or ()))
    found["aux_tasks"] = {name: task for name, task in tasks.items() if task["labels"] in columns}
    return found
