"""Text formatting of metrics and selection rules, shared by pages, tables and terminal output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tl_lightning.tasks.metrics import is_fraction

__all__ = [
    "BOUND",
    "domains_of",
    "duration",
    "metric_value",
    "percent",
    "points",
    "seeds_range",
    "seeds_text",
    "trained_on_target",
    "uses_target_labels",
]


BOUND = "trained on labelled target images: an upper bound, not a result"
"""Note in the report of a run that was trained on target labels."""


def uses_target_labels(report: Mapping[str, Any]) -> bool:
    """Return whether target labels were used to train or select the model (an upper bound).

    >>> uses_target_labels({"learned_from": "target"}), uses_target_labels({"selection": {}})
    (True, False)
    """
    selection = report.get("selection") or {}
    chosen = bool(selection.get("uses_target_labels")) or selection.get("rule") == "oracle"
    return chosen or trained_on_target(report)


def trained_on_target(report: Mapping[str, Any]) -> bool:
    """Return whether the model was trained on target labels, as the baseline ``oracle`` is."""
    return report.get("learned_from") == "target"


def percent(value: float | None) -> str:
    """Return a fraction as a percentage with one decimal.

    >>> percent(0.6128), percent(None)
    ('61.3 %', '–')
    """
    return "–" if value is None else f"{100 * value:.1f} %"


def points(value: float) -> str:
    """Return a difference of fractions in signed percentage points; never ``-0.0``.

    >>> points(0.175), points(-0.0001)
    ('+17.5', '+0.0')
    """
    text = f"{100 * value:+.1f}"
    return "+0.0" if text == "-0.0" else text


def metric_value(name: str, value: Any) -> str:
    """Return a metric as text: a percentage if it is a fraction, else four significant digits.

    >>> metric_value("acc", 0.5), metric_value("loss", 0.5), metric_value("loss", None)
    ('50.0 %', '0.5', 'not finite')
    """
    if not isinstance(value, (int, float)):
        return "not finite" if value is None else str(value)
    return percent(value) if is_fraction(name.rsplit("/", 1)[-1]) else f"{value:.4g}"


def domains_of(data: Mapping[str, Any]) -> str:
    """Return the names or folders of source and target in a data node; empty if it has none.

    >>> domains_of({"source": {"domain": ["photo", "art"]}, "target": {"root": "/my"}})
    'photo+art to /my'
    """
    names = []
    for key in ("source", "target"):
        node = data.get(key)
        domain = (node.get("domain") or node.get("root")) if isinstance(node, Mapping) else None
        domain = domain or data.get("root") or ""
        names.append("+".join(domain) if isinstance(domain, list) else str(domain))
    return " to ".join(names) if any(names) else ""


def duration(seconds: float | None) -> str:
    """Return a human-readable duration.

    >>> duration(7.25), duration(61.2), duration(7384)
    ('7.2 s', '1 min 1 s', '2 h 3 min')
    """
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left} min" if hours else f"{minutes} min {rest} s"


def seeds_text(count: int, paired: bool = False) -> str:
    """Return a seed count with its noun.

    >>> seeds_text(1), seeds_text(5, paired=True)
    ('1 seed', '5 paired seeds')
    """
    return f"{count} {'paired ' if paired else ''}seed{'' if count == 1 else 's'}"


def seeds_range(seeds: Iterable[int]) -> str:
    """Return seeds as text, with three or more consecutive ones as a range.

    >>> seeds_range([0, 1, 2, 3, 7, 9, 10])
    '0-3, 7, 9, 10'
    """
    ranges: list[list[int]] = []
    for seed in sorted(seeds):
        if ranges and seed == ranges[-1][-1] + 1:
            ranges[-1].append(seed)
        else:
            ranges.append([seed])
    texts = [f"{r[0]}-{r[-1]}" if len(r) > 2 else ", ".join(map(str, r)) for r in ranges]
    return ", ".join(texts)
