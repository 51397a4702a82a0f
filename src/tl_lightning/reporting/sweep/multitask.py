"""Further tasks in a sweep's table: their columns, and the main task held against itself alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tl_lightning.reporting.formatting import FRACTIONS
from tl_lightning.reporting.statistics import Interval, student
from tl_lightning.reporting.sweep.compare import Comparison, Group, Key, compare

__all__ = ["ALONE", "against_alone", "figure", "further_means", "headings", "named", "shown_keys"]

ALONE = "the main task alone"
"""What a row with further tasks is held against: the same without them."""


def named(config: dict[str, Any]) -> dict[str, Any]:
    """Return dotted keys with the tasks' names under ``task``, for labels.

    >>> named({"tasks.coarse.weight": 1.0})
    {'tasks.coarse.weight': 1.0, 'task': '[coarse]'}
    >>> named({"tasks": {}})
    {'task': 'none'}
    """
    names = dict.fromkeys(key.split(".")[1] for key in config if key.startswith("tasks."))
    kept = {key: value for key, value in config.items() if key != "tasks"}
    return {**kept, "task": f"[{','.join(names)}]" if names else "none"}


def shown_keys(keys: Iterable[str], groups: list[Group]) -> list[str]:
    """Return the keys that label groups: none of a task that only some of them have."""
    every = [{key.split(".")[1] for key in g.config if key.startswith("tasks.")} for g in groups]
    common = set.intersection(*every) if every else set()
    return [k for k in keys if not k.startswith("tasks.") or k.split(".")[1] in common]


def further_means(group: Group) -> dict[str, Interval]:
    """Return ``target coarse/acc`` and its like to their means over the seeds."""
    values: dict[str, list[float]] = {}
    for _, run in sorted(group.runs.items()):
        for key, value in (run.get("metrics") or {}).items():
            domain, _, metric = key.partition("/test/")
            if "/" in metric and isinstance(value, (int, float)):
                values.setdefault(f"{domain} {metric}", []).append(float(value))
    return {key: student(found) for key, found in sorted(values.items())}


def against_alone(
    group: Group, groups: list[Group], labels: Mapping[Key, str], bound: bool
) -> Comparison | None:
    """Return the paired difference of the main task's accuracy to that without further tasks.

    On the target where it has labels, else on the source; None where there is nothing to compare.
    """
    if group.config.get("task", "none") == "none":
        return None
    domain = "target" if group.accuracies("target") else "source"
    candidates = [
        other
        for other in groups
        if other.name == group.name and other.config.get("task", "none") == "none"
    ]
    if not candidates:
        return None
    return compare(group, candidates, ALONE, labels, bound, domain)


def headings(rows: Iterable[Mapping[str, Interval]]) -> list[str]:
    """Return the columns of further tasks: of the target where any row has it, else the source.

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
    """Return mean and standard deviation: in per cent where the metric is a share.

    >>> figure("target coarse/acc", student([0.5])), figure("source age/mae", student([2.25]))
    ('50.0', '2.25')
    """
    if interval is None:
        return "–"
    if name.rsplit("/", 1)[-1] in FRACTIONS:
        mean, spread = f"{100 * interval.mean:.1f}", 100 * (interval.std or 0.0)
        return mean if interval.std is None else f"{mean} ± {spread:.1f}"
    return f"{interval.mean:.4g}" + ("" if interval.std is None else f" ± {interval.std:.2g}")
