"""Auxiliary tasks in sweep tables: their columns, and the comparison with the main task alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tl_lightning.reporting.statistics import Interval, student
from tl_lightning.reporting.sweep.compare import Comparison, Group, Key, compare
from tl_lightning.tasks.metrics import is_fraction

__all__ = ["ALONE", "against_alone", "aux_task_means", "figure", "headings", "named", "shown_keys"]

ALONE = "the main task alone"
"""Display name of the baseline for rows with auxiliary tasks: the same run without them."""


def named(config: dict[str, Any]) -> dict[str, Any]:
    """Return a flat config with the names of the auxiliary tasks under ``aux_task``, for labels.

    >>> named({"aux_tasks.coarse.weight": 1.0})
    {'aux_tasks.coarse.weight': 1.0, 'aux_task': '[coarse]'}
    >>> named({"aux_tasks": {}})
    {'aux_task': 'none'}
    """
    names = dict.fromkeys(key.split(".")[1] for key in config if key.startswith("aux_tasks."))
    kept = {key: value for key, value in config.items() if key != "aux_tasks"}
    return {**kept, "aux_task": f"[{','.join(names)}]" if names else "none"}


def shown_keys(keys: Iterable[str], groups: list[Group]) -> list[str]:
    """Return the keys that can label groups, without those of tasks that only some groups have."""
    tasks = [
        {key.split(".")[1] for key in g.settings if key.startswith("aux_tasks.")} for g in groups
    ]
    common = set.intersection(*tasks) if tasks else set()
    return [k for k in keys if not k.startswith("aux_tasks.") or k.split(".")[1] in common]


def aux_task_means(group: Group) -> dict[str, Interval]:
    """Return means over seeds by auxiliary metric, such as ``target coarse/acc``."""
    values: dict[str, list[float]] = {}
    for _, run in sorted(group.runs.items()):
        for key, value in (run.get("metrics") or {}).items():
            domain, _, metric = key.partition("/test/")
            if "/" in metric and isinstance(value, (int, float)):
                values.setdefault(f"{domain} {metric}", []).append(float(value))
    return {key: student(numbers) for key, numbers in sorted(values.items())}


def against_alone(
    group: Group, groups: list[Group], labels: Mapping[Key, str], bound: bool
) -> Comparison | None:
    """Return the paired difference of main task accuracy with and without auxiliary tasks.

    Uses the target if it is labelled, else the source; None if there is nothing to compare.
    """
    if group.settings.get("aux_task", "none") == "none":
        return None
    domain = "target" if group.accuracies("target") else "source"
    candidates = [
        other
        for other in groups
        if other.name == group.name and other.settings.get("aux_task", "none") == "none"
    ]
    if not candidates:
        return None
    return compare(group, candidates, ALONE, labels, bound, domain)


def headings(rows: Iterable[Mapping[str, Interval]]) -> list[str]:
    """Return the columns of auxiliary tasks: target metrics if any row has them, else source.

    >>> headings([{"source coarse/acc": student([1.0]), "target coarse/acc": student([0.5])}])
    ['target coarse/acc']
    """
    keys = sorted({key for row in rows for key in row})
    return [
        key
        for key in keys
        if not key.startswith("source ") or key.replace("source ", "target ", 1) not in keys
    ]


def figure(name: str, interval: Interval | None) -> str:
    """Return mean and standard deviation, in percent if the metric is a fraction.

    >>> figure("target coarse/acc", student([0.5])), figure("source age/mae", student([2.25]))
    ('50.0', '2.25')
    """
    if interval is None:
        return "–"
    if is_fraction(name.rsplit("/", 1)[-1]):
        mean, spread = f"{100 * interval.mean:.1f}", 100 * (interval.std or 0.0)
        return mean if interval.std is None else f"{mean} ± {spread:.1f}"
    return f"{interval.mean:.4g}" + ("" if interval.std is None else f" ± {interval.std:.2g}")
