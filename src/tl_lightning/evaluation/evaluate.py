"""Test of a checkpoint on its own data or on other data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tl_lightning.checkpoints.io import StoredModel, read_model
from tl_lightning.config.allowlist import stored_problems
from tl_lightning.config.compose import with_values
from tl_lightning.config.schema import RunConfig
from tl_lightning.config.validation.check import check
from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.data.summary import split_notes
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.evaluation.files import folder_for, write_evaluation
from tl_lightning.evaluation.load import rebuilt
from tl_lightning.evaluation.metrics import assess, plain_values
from tl_lightning.evaluation.nodes import stored_section
from tl_lightning.evaluation.outputs import OutputCollector, Outputs
from tl_lightning.training.build import aux_label_info
from tl_lightning.training.limits import tested_samples, untested
from tl_lightning.training.trainer import make_trainer
from tl_lightning.types import DOMAINS
from tl_lightning.utils.process import keep_memory, quiet
from tl_lightning.utils.signals import signals
from tl_lightning.utils.text import flatten, shorten

__all__ = ["evaluate"]

#: Settings of training and selection, which do not count here: the data need no target.
_NOT_TRAINED: dict[str, Any] = {
    "model": {"_target_": "tl_lightning.models.FineTuning", "name": "evaluated"},
    "selection": "last", "interpolation": None, "track_target": False, "method": {},
    "baselines": [], "regularizer": {},
    "lr_find": False, "init": None, "resume": None, "phases": None, "task_weighting": "fixed",
    "callbacks": {}, "logger": {}, "cache.features": "off", "cache.dir": None,
    "checkpointing.every_n_epochs": 1,
    "data.batch_size": 1,  # there may be too few samples for a training batch
}  # fmt: skip


def evaluate(
    checkpoint: str | Path,
    data: Mapping[str, Any] | None = None,
    trainer: Mapping[str, Any] | None = None,
    allow: Sequence[str] = (),
    *,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Test a checkpoint; without other data or trainer, reproduce the test metrics of its run.

    Args:
        checkpoint: A ``.ckpt`` file written by this framework.
        data: Data node to use instead of the checkpoint's.
        trainer: Trainer node to use instead of the checkpoint's.
        allow: Full names of additional classes that the checkpoint's configuration may build.
        out: Folder for the files of :func:`.write_evaluation`, or None.

    Of other data than those of the run, all samples are tested, unless they have a test
    split of their own, or a validation split, or a setting of ``data`` says which are tested.

    Returns:
        ``{"metrics": {...}, "data": name, "classes": [...], "counts": {...}, "notes": [...],
        "domains": {...}, "outputs": {...}}``, with the number of tested samples by domain, and
        notes on them. ``domains`` has the metrics of every labelled domain with intervals, see
        :func:`.plain_values`; ``outputs`` has the :class:`.Outputs` of every domain.

    Raises:
        CheckpointError: If the checkpoint cannot be read.
        ConfigError: If its configuration names a class that must not be built, or the classes of
            the data are others.
        DataError: If the data cannot be used.
    """
    quiet()
    keep_memory()
    folder = None if out is None else folder_for(out)
    stored = read_model(Path(checkpoint))
    module = rebuilt(stored, checkpoint, allow)
    given = {name: node for name, node in (("data", data), ("trainer", trainer)) if node}
    kept = {name: stored_section(stored, name) for name in ("data", "trainer") if name not in given}
    if problems := stored_problems(kept, allow):
        raise ConfigError([f"checkpoint {checkpoint}: {problem}" for problem in problems])
    # Its own ``allow`` is ignored.
    run = check(_testing({**stored.config, **kept, **given, "allow": list(allow)}))
    found: TransferDataModule = run.data.build()
    new = _new_domains(stored_section(stored, "data"), run.section("data"))
    found.only_tested = frozenset() if new and _same_data(run, stored) else new
    classes = found.discover(input_state=module.input_state).classes
    if classes != stored.classes:
        raise ConfigError(
            f"checkpoint={checkpoint} was trained on the classes {shorten(stored.classes)}, but "
            f"data={found.name} has {shorten(classes)}; use data with the same classes"
        )
    aux_label_info(run, found, stored.aux_tasks)
    trained_on = tuple(d for d in module.train_on if d == "source" or run.target)
    found.prepare(replace(module.needs(), train_on=trained_on, strong=False))
    tester = make_trainer(run.trainer, logger=False, enable_checkpointing=False)
    tester.callbacks.append(collector := OutputCollector())  # type: ignore[attr-defined]
    with signals.watched():
        tester.test(module, datamodule=found, verbose=False)
    metrics = {name: float(value) for name, value in tester.callback_metrics.items()}
    counts = tested_samples(tester, found)
    notes = [*split_notes(found.found), *untested(tester, found), *found.remarks()]
    outputs = collector.outputs(found)
    result = {
        "metrics": metrics, "data": found.name, "classes": list(classes), "counts": counts,
        "notes": notes, "domains": _assessed(outputs, classes), "outputs": outputs,
    }  # fmt: skip
    if folder is not None and tester.is_global_zero:
        write_evaluation(folder, result)
    return result


def _assessed(outputs: Mapping[str, Outputs], classes: Sequence[str]) -> dict[str, Any]:
    """Return the metrics of the labelled domains."""
    return {
        name: plain_values(assess(found.logits, found.labels, classes))
        for name, found in outputs.items()
        if found.labels is not None and len(found.labels)
    }


#: Settings of data that say where the samples of a domain are.
_PLACES = ("_target_", "root", "table", "{}.root", "{}.domain", "{}.table", "{}.train")
#: Settings of data that say which samples are tested.
_TESTED = ("test_split", "test_fraction", "transductive")


def _new_domains(stored: Mapping[str, Any], given: Mapping[str, Any]) -> frozenset[str]:
    """Return the domains that are not those of the run, of which all samples are tested.

    None if a setting says which samples are tested, except ``test_fraction=1``.
    """
    before, now = flatten(stored), flatten(given)
    if given.get("test_fraction") == 1:
        return frozenset(DOMAINS)
    if any(before.get(key) != now.get(key) for key in _TESTED if key in now and key in before):
        return frozenset()
    return frozenset(
        domain
        for domain in DOMAINS
        if any(
            _place(before.get(key.format(domain))) != _place(now.get(key.format(domain)))
            for key in _PLACES
        )
    )


def _same_data(run: RunConfig, stored: StoredModel) -> bool:
    """Return whether data are those of the run in another place, of which it saw most samples."""
    data: TransferDataModule = run.data.build()
    try:
        data.discover(input_state=stored.input_state)
    except DataError:  # such as a folder of test samples alone
        return False
    return data.fingerprint() == stored.data.get("fingerprint")


def _place(value: Any) -> Any:
    """Return what two settings of the same file or folder have in common."""
    return Path(value).expanduser().resolve() if isinstance(value, str) else value


def _testing(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a run, changed so that it only tests."""
    found = with_values(config, _NOT_TRAINED)
    # Auxiliary tasks whose label column these data do not have are left out.
    data, tasks = found["data"], found["aux_tasks"]
    columns = (None, *(data.get("label_columns") or ()))
    found["aux_tasks"] = {name: task for name, task in tasks.items() if task["labels"] in columns}
    return found
