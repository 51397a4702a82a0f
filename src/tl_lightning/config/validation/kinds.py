"""Checks of the kind of the main task against the rest of the configuration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tl_lightning.config.paths import choices
from tl_lightning.config.schema import WITHOUT_CLASSES, RunConfig
from tl_lightning.config.static import StaticClass
from tl_lightning.config.validation.data import mixing_keys
from tl_lightning.errors import ConfigError
from tl_lightning.selection.rules import rules_of

__all__ = ["kind_problems"]

#: Kinds of task of a loss, a method or a rule that states none.
_CLASSES = frozenset({"classification"})
#: Settings that only classes have, and their values that do nothing.
_OF_CLASSES: dict[str, tuple[Any, ...]] = {
    "label_shift": ("none",), "rejection": ("none",), "head_init": ("random",),
    "data.sampling": ("uniform", "domain_balanced"), "data.target_sampling": ("uniform",),
    "data.mixup_alpha": (0.0,), "data.cutmix_alpha": (0.0,), "data.classes": (None,),
    "data.target.classes": ("same",), "data.target.labelled_per_class": (0, None),
}  # fmt: skip


def kind_problems(run: RunConfig) -> Iterator[str]:
    """Yield what does not fit the kind of the main task."""
    kind, loss = run.task.kind, run.nodes["loss"]
    fits = getattr(loss.cls, "tasks", {"classification", "ordinal"})
    if kind not in fits:
        yield (
            f"loss._target_={loss.target} is a loss for task={' or '.join(sorted(fits))}, but task="
            f"{kind}; set loss={_LOSSES[kind]}"
        )
    yield from _method_problems(run)
    rules = rules_of(kind)
    if run.selection not in (*rules, "auto"):
        what = "classes" if kind in WITHOUT_CLASSES else "labels that are not classes"
        yield (
            f"selection={run.selection} is a rule for {what}, but task={kind}; set selection to "
            f"one of {', '.join(rules)}"
        )
    levels = run.task.levels
    if levels is not None and kind != "ordinal":
        yield f"task.levels={levels} are for task=ordinal, but task={kind}; leave out task.levels"
    elif levels is not None and len(set(map(str, levels))) < max(2, len(levels)):
        yield (
            f"task.levels={levels} must be at least two distinct levels; set "
            "task.levels=[low,middle,high]"
        )
    if kind == "ordinal" and (mixed := mixing_keys(run)):
        yield (
            f"data.{mixed[0]}={run.data.params[mixed[0]]} mixes labels, which have an order with "
            f"task=ordinal; set data.{mixed[0]}=0"
        )
    sets = (run.target or {}).get("classes")
    if kind == "ordinal" and sets in ("open", "universal"):
        yield (
            f"data.target.classes={sets} allows unknown classes, which have no place in the order "
            "of task=ordinal; set data.target.classes=same or subset"
        )
    if kind in WITHOUT_CLASSES:
        yield from _label_problems(run)


#: The default loss of each kind of task.
_LOSSES = {
    "classification": "cross_entropy", "ordinal": "coral", "regression": "squared_error",
    "multi_label": "binary_cross_entropy",
}  # fmt: skip


def needs_classes(run: RunConfig, command: str) -> None:
    """Raise ConfigError if the main task of a run does not have one class per sample.

    Args:
        run: A checked configuration.
        command: What cannot be done without.
    """
    if run.task.kind in WITHOUT_CLASSES:
        raise ConfigError(
            f"{command} is for one class per sample, but task={run.task.kind}; leave out task="
        )


def _method_problems(run: RunConfig) -> Iterator[str]:
    kind = run.task.kind
    wrong = [
        n for n, node in run.methods.items() if kind not in getattr(node.cls, "tasks", _CLASSES)
    ]
    if wrong and kind != "classification":
        suitable = _suitable(run)
        yield (
            f"method=[{','.join(run.methods)}]: {wrong[0]} needs classes, but task={kind}; set "
            f"method=[<name>] to one of {', '.join(suitable)}, or model=source_only"
        )
    elif wrong:
        fits = " or ".join(sorted(run.methods[wrong[0]].cls.tasks))
        yield f"method=[{wrong[0]}] is for task={fits}, but task={kind}; use another method"


def _suitable(run: RunConfig) -> list[str]:
    """Return the methods of ``conf/`` that support the kind of task."""
    from tl_lightning.config.compose import default_node

    found = []
    for name in choices("method"):
        cls = StaticClass(str(default_node("method", name)["_target_"]))
        if run.task.kind in getattr(cls, "tasks", _CLASSES) and cls.adds_loss:
            found.append(name)
    return found


def _label_problems(run: RunConfig) -> Iterator[str]:
    kind = run.task.kind
    if not run.data.cls.has_cells:
        what = "numbers" if kind == "regression" else "several labels of a sample"
        yield (
            f"task={kind} needs {what}, but data={run.data_name} has one class per sample; set "
            "data=csv for images with data.table=<file> data.columns.label=<column>, data=text_csv "
            "for texts, or data=vectors"
        )
        return
    for key, without in _OF_CLASSES.items():
        value = _value(run.plain, key)
        if value is not _ABSENT and value not in (*without, "auto"):
            off = "null" if without[0] is None else without[0]
            yield f"{key}={value} is for classes, but task={kind}; set {key}={off}"
    for name in run.group("metrics"):
        yield f"metrics.{name} is a metric of classes, but task={kind}; remove it"
    for name, node in run.aux_tasks.items():
        if node.params.get("groups") is not None:
            yield (
                f"aux_tasks.{name}.groups derives labels from classes, but task={kind}; set "
                f"aux_tasks.{name}.labels=<column> with data.label_columns=[<column>]"
            )


_ABSENT = object()


def _value(config: Any, key: str) -> Any:
    """Return the value of a plain setting by its path, or ``_ABSENT``."""
    for part in key.split("."):
        config = config.get(part, _ABSENT) if hasattr(config, "get") else _ABSENT
    return config
