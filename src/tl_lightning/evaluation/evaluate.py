"""Test of a checkpoint on its own data or on other data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L

from tl_lightning.callbacks.domain_metrics import DomainMetrics
from tl_lightning.checkpoints.io import StoredModel, read_model
from tl_lightning.config.allowlist import stored_problems
from tl_lightning.config.compose import with_values
from tl_lightning.config.schema import WITHOUT_CLASSES, RunConfig
from tl_lightning.config.validation.check import check
from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.data.summary import split_notes
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.evaluation.comparison import by_group, compared
from tl_lightning.evaluation.corruptions import under_corruptions
from tl_lightning.evaluation.expected import expected_lines
from tl_lightning.evaluation.files import folder_for, write_evaluation
from tl_lightning.evaluation.labels import kind_of, of_labels, write_labels
from tl_lightning.evaluation.load import completed, rebuilt
from tl_lightning.evaluation.metrics import Score, assess, plain_values
from tl_lightning.evaluation.nodes import stored_section
from tl_lightning.evaluation.outputs import OutputCollector, Outputs
from tl_lightning.evaluation.own_metrics import built_metrics, own_scores
from tl_lightning.models.base import TransferModule
from tl_lightning.reliability import assessment
from tl_lightning.reliability.label_shift import believed_absent, class_mix
from tl_lightning.tasks.encoding import data_of
from tl_lightning.tasks.label_task import LabelTask
from tl_lightning.training.build import aux_label_info
from tl_lightning.training.limits import tested_samples, untested
from tl_lightning.training.source_domains import check_sources
from tl_lightning.training.trainer import make_trainer
from tl_lightning.types import DOMAINS
from tl_lightning.utils.process import keep_memory, quiet
from tl_lightning.utils.signals import signals
from tl_lightning.utils.text import flatten, shorten

__all__ = ["evaluate"]

#: Settings of training and selection, which do not count here: the data need no target.
_NOT_TRAINED: dict[str, Any] = {
    "model": {"_target_": "tl_lightning.models.FineTuning", "name": "evaluated"},
    "selection": "last", "interpolation": None, "label_shift": "none", "rejection": "none",
    "rejection_threshold": "otsu", "track_target": False, "method": {},
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
    metrics: Mapping[str, Any] | None = None,
    compare: str | Path | None = None,
    corruptions: bool = False,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Test a checkpoint; without other data or trainer, reproduce the test metrics of its run.

    Args:
        checkpoint: A ``.ckpt`` file written by this framework.
        data: Data node to use instead of the checkpoint's.
        trainer: Trainer node to use instead of the checkpoint's.
        allow: Full names of additional classes that the checkpoint's configuration may build.
        metrics: Further metrics by name, as nodes or objects, see :func:`.built_metrics`.
        compare: Another checkpoint with the same classes, tested on the same samples; the accuracy
            to expect without labels takes it into account.
        corruptions: Whether to test on corrupted versions of the images as well.
        out: Folder for the files of :func:`.write_evaluation`, or None.

    Of other data than those of the run, all samples are tested, unless they have a test
    split of their own, or a validation split, or a setting of ``data`` says which are tested.

    Returns:
        ``{"metrics": {...}, "data": name, "classes": [...], "counts": {...}, "notes": [...],
        "domains": {...}, "outputs": {...}, "expected": [...]}``, with the number of tested samples
        by domain, and notes on them. ``domains`` has the metrics of every labelled domain with
        intervals, see :func:`.plain_values`, and ``groups`` for each column of
        ``data.label_columns``, see :func:`.by_group`; ``outputs`` has the :class:`.Outputs` of
        every domain, ``expected`` the accuracy to expect on a domain without labels, in lines,
        ``absent`` the classes that the model believes absent from the target, and
        ``comparison`` and ``corruptions`` the results of :func:`.compared` and :func:`.summarised`
        of every labelled domain. Of labels that are not classes, see :func:`.of_labels` instead.

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
    other = None if compare is None else read_model(Path(compare))
    if other is not None and other.classes != stored.classes:
        raise ConfigError(
            f"compare={compare} was trained on the classes {shorten(other.classes)}, but "
            f"checkpoint={checkpoint} on {shorten(stored.classes)}; compare models of the same "
            "classes"
        )
    kind = kind_of(stored.config)
    if kind in WITHOUT_CLASSES:
        _refuse_for_labels(kind, metrics=metrics, compare=compare, corruptions=corruptions)
    own = built_metrics(metrics or {}, allow, len(stored.classes))
    settings = {"data": data, "trainer": trainer}
    tested = _test(stored, checkpoint, settings, allow, images=corruptions)
    found, outputs = tested.data, tested.outputs
    if isinstance(tested.module.task, LabelTask):
        values = of_labels(tested.module.task, found, outputs) | {
            "metrics": tested.metrics, "data": found.name, "classes": list(stored.classes),
            "counts": tested_samples(tested.trainer, found),
            "notes": [*split_notes(found.found), *untested(tested.trainer, found)],
        }  # fmt: skip
        if folder is not None and tested.trainer.is_global_zero:
            write_labels(folder, values)
        return values
    notes = [*split_notes(found.found), *untested(tested.trainer, found), *found.remarks()]
    result: dict[str, Any] = {
        "metrics": tested.metrics, "data": found.name, "classes": list(stored.classes),
        "counts": tested_samples(tested.trainer, found), "notes": notes,
        "domains": _assessed(tested, stored.classes, own), "outputs": outputs,
        "absent": _absent(stored, outputs),
    }  # fmt: skip
    second: dict[str, Outputs] = {}
    if other is not None:
        same = {name: tested.run.section(name) for name in settings}
        second = _test(other, compare, same, allow, found.only_tested).outputs
        notes += _seen(stored, other, same["data"], outputs)
        result["comparison"] = {"checkpoint": str(compare)} | {
            name: compared(outputs[name].of_classes(), second[name].of_classes())
            for name in result["domains"]
        }
    result["expected"] = expected_lines(stored, outputs, other, second, str(compare))
    if corruptions and result["domains"]:
        result["corruptions"] = under_corruptions(tested.module, found, tested.run.trainer, outputs)
    if folder is not None and tested.trainer.is_global_zero:
        write_evaluation(folder, result)
    return result


@dataclass(frozen=True)
class _Tested:
    """A model with the data that it was tested on, and the outcome."""

    run: RunConfig
    data: TransferDataModule
    trainer: L.Trainer
    module: TransferModule
    metrics: dict[str, float]
    outputs: dict[str, Outputs]


def _test(
    stored: StoredModel,
    checkpoint: str | Path | None,
    settings: Mapping[str, Mapping[str, Any] | None],
    allow: Sequence[str],
    only_tested: frozenset[str] | None = None,
    images: bool = False,
) -> _Tested:
    """Test a model with these settings of ``data`` and ``trainer``, or those of its checkpoint.

    All samples of the domains in ``only_tested`` are tested; None: of those that are not the run's.
    With ``images``, other samples than images are an error.
    """
    module = rebuilt(stored, str(checkpoint), allow)
    given = {name: node for name, node in settings.items() if node}
    kept = {name: stored_section(stored, name) for name in settings if name not in given}
    if problems := stored_problems(kept, allow):
        raise ConfigError([f"checkpoint {checkpoint}: {problem}" for problem in problems])
    # Its own ``allow`` is ignored.
    run = check(_testing({**completed(stored.config), **kept, **given, "allow": list(allow)}))
    found = data_of(run)
    if images and found.gives != "images":
        raise ConfigError(
            f"corruptions=true changes images, but data={found.name} contains {found.gives}; leave "
            "it out"
        )
    if only_tested is None:
        new = _new_domains(_data(stored), run.section("data"))
        only_tested = frozenset() if new and _same_data(run, stored, module.unseen) else new
    found.only_tested = only_tested | module.unseen
    classes = found.discover(input_state=module.input_state).classes
    if classes != stored.classes:
        raise ConfigError(
            f"checkpoint={checkpoint} was trained on the classes {shorten(stored.classes)}, but "
            f"data={found.name} has {shorten(classes)}; use data with the same classes"
        )
    check_sources(stored.data, found.found["source"], checkpoint)
    if not isinstance(module.task, LabelTask):
        module.task.class_sets = ((run.target or {}).get("classes") or "same") != "same"
    aux_label_info(run, found, stored.aux_tasks)
    trained_on = tuple(d for d in module.train_on if d == "source" or run.target)
    found.prepare(replace(module.needs(), train_on=trained_on, strong=False))
    trainer = make_trainer(run.trainer, logger=False, enable_checkpointing=False)
    collector = OutputCollector()
    of_classes = not isinstance(module.task, LabelTask)
    by_domain = [DomainMetrics()] if of_classes else []
    trainer.callbacks += [collector, *by_domain]  # type: ignore[attr-defined]
    with signals.watched():
        trainer.test(module, datamodule=found, verbose=False)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return _Tested(run, found, trainer, module, metrics, collector.outputs(found))


def _refuse_for_labels(kind: str, **options: Any) -> None:
    """Raise ConfigError for options that only classes have."""
    for name, value in options.items():
        if value:
            raise ConfigError(f"{name} is for classes, but the model has task={kind}; remove it")


def _assessed(
    tested: _Tested, classes: Sequence[str], own: Mapping[str, Callable[..., Any]]
) -> dict[str, Any]:
    """Return the metrics of the labelled domains, also by group if a table has other columns."""
    result = {}
    for name, whole in tested.outputs.items():
        found = whole.of_classes()
        if found.labels is None or not len(found.labels):
            continue
        result[name] = plain_values(assess(found.logits, found.labels, classes))
        assert whole.labels is not None
        if unknown := len(whole.labels) - len(found.labels):
            result[name]["notes"].append(
                f"{unknown:,} samples of unknown classes are left out here; the metrics "
                "known_acc, unknown_recall and h_score count them"
            )
        for key, value in own_scores(own, found).items():
            result[name]["scores"][key] = Score(value)._asdict()
        right, groups = found.logits.argmax(1) == found.labels, {}
        for column in tested.run.data.params.get("label_columns") or ():
            cells = tested.data.aux_labels(column)
            groups[column] = by_group(right, [cells[Path(file)] for file in found.files])
        if groups:
            result[name]["groups"] = groups
    return result


def _seen(
    first: StoredModel, second: StoredModel, data: Mapping[str, Any], domains: Iterable[str]
) -> list[str]:
    """Return a note if the second model may have been trained on samples that are tested."""
    whole = _new_domains(_data(first), data)
    before, now = flatten(_data(second)), flatten(data)
    split = any(before.get(key) != now.get(key) for key in _TESTED)
    return [
        f"the model of compare was trained on another split of the {name}'s samples, so that some "
        "of those tested may be its training samples"
        for name in domains
        if not _elsewhere(name, before, now) and (name in whole or split)
    ]


def _absent(stored: StoredModel, outputs: Mapping[str, Outputs]) -> list[str] | None:
    """Return the classes that the model believes absent from the target; None without a record."""
    record, target = assessment.Record.of(stored.reliability), outputs.get("target")
    if record is None or target is None:
        return None
    shift = stored.state_dict.get("task.prior.shift")
    logits = target.logits.astype(float) - (0.0 if shift is None else shift.double().numpy())
    if target.rejected is not None and not target.rejected.all():
        logits = logits[~target.rejected]
    try:
        mix = class_mix(record.logits, record.labels, logits)
    except DataError:  # no finite outputs on source validation
        return None
    return [stored.classes[index] for index in believed_absent(mix.source, mix.likely)]


#: Settings of data that say where the samples of a domain are.
_PLACES = ("_target_", "root", "table", "{}.root", "{}.domain", "{}.table", "{}.train")
#: Settings of data that say which samples are tested.
_TESTED = ("test_split", "test_fraction", "transductive")


def _data(stored: StoredModel) -> Mapping[str, Any]:
    """Return the settings of the data of a run; empty for a published model."""
    return stored_section(stored, "data") if "_target_" in stored.section("data") else {}


def _new_domains(stored: Mapping[str, Any], given: Mapping[str, Any]) -> frozenset[str]:
    """Return the domains that are not those of the run, of which all samples are tested.

    None if a setting says which samples are tested, except ``test_fraction=1``.
    """
    before, now = flatten(stored), flatten(given)
    if given.get("test_fraction") == 1:
        return frozenset(DOMAINS)
    if any(before.get(key) != now.get(key) for key in _TESTED if key in now and key in before):
        return frozenset()
    return frozenset(domain for domain in DOMAINS if _elsewhere(domain, before, now))


def _elsewhere(domain: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether two flat settings of data have a domain in different places."""
    keys = [key.format(domain) for key in _PLACES]
    return any(_place(before.get(key)) != _place(now.get(key)) for key in keys)


def _same_data(run: RunConfig, stored: StoredModel, unseen: frozenset[str]) -> bool:
    """Return whether data are those of the run in another place, of which it saw most samples."""
    data = data_of(run)
    data.only_tested |= unseen
    try:
        data.discover(input_state=stored.input_state)
    except DataError:  # such as a folder of test samples alone
        return False
    # The numbers first: the fingerprint reads every file.
    same = data.counts() == _without_full_data(stored)
    return same and data.fingerprint() == stored.data.get("fingerprint")


def _without_full_data(stored: StoredModel) -> Any:
    """Return the counts of a run without the validation samples that it was trained on as well."""
    counts = dict(stored.data.get("counts") or {})
    if stored.section("model").get("full_data") and "source/train" in counts:
        counts["source/train"] -= counts["source/val"]
    return counts


def _place(value: Any) -> Any:
    """Return what two settings of the same file or folder have in common."""
    return Path(value).expanduser().resolve() if isinstance(value, str) else value


def _testing(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a run, changed so that it only tests."""
    found = with_values({"task": {"kind": "classification"}, **config}, _NOT_TRAINED)
    # Auxiliary tasks whose label column these data do not have are left out.
    data, tasks = found["data"], found["aux_tasks"]
    columns = (None, *(data.get("label_columns") or ()))
    found["aux_tasks"] = {name: task for name, task in tasks.items() if task["labels"] in columns}
    return found
