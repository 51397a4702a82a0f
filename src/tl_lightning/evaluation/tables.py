"""Printed tables of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from tl_lightning.evaluation.comparison import MOST_GROUPS
from tl_lightning.evaluation.metrics import SCORES
from tl_lightning.reporting.console import console
from tl_lightning.reporting.formatting import percent, points
from tl_lightning.utils.text import printable

__all__ = ["print_evaluation"]

#: Numbers of classes and of confused pairs that are printed.
CLASSES, PAIRS = 5, 5
#: Scores that are not printed: it is the accuracy.
_HIDDEN = ("weighted_recall",)


def print_evaluation(result: Mapping[str, Any]) -> None:
    """Print the metrics of every labelled domain with their intervals, and what is worst.

    Args:
        result: What ``evaluate`` returns.
    """
    domains = result["domains"]
    print_numbers(result.get("numbers") or {})
    if domains:
        _scores(domains)
    for name, part in domains.items():
        _worst(name, part)
        for column, found in part.get("groups", {}).items():
            _groups(name, column, found)
        for note in part["notes"]:
            print(printable(f"note: {name}: {note}"))

    for name, found in result.get("corruptions", {}).items():
        _corruptions(name, found)
    for name, found in result.get("comparison", {}).items():
        if name in domains:
            _comparison(name, found, result["comparison"]["checkpoint"])


def print_numbers(numbers: Mapping[str, Any]) -> None:
    """Print the errors of predicted numbers with their intervals; nothing without."""
    for domain, found in numbers.items():
        if domain == "names":
            continue
        title = f"{domain}: errors in the unit of the labels, with 95 % intervals"
        shown = Table(title=title, title_justify="left")
        shown.add_column("output")
        for name in next(iter(found["metrics"].values())):
            shown.add_column(name, justify="right")
        for output, metrics in found["metrics"].items():
            shown.add_row(printable(output), *(_with_range(*value) for value in metrics.values()))
        console().print(shown)


def _with_range(value: float | None, low: float | None, high: float | None) -> str:
    """Return a value with its interval.

    >>> _with_range(1.5, 1.25, 2.0), _with_range(None, None, None)
    ('1.5 (1.25 to 2)', '–')
    """
    if value is None:
        return "–"
    return f"{value:.4g}" + ("" if low is None else f" ({low:.4g} to {high:.4g})")


def _scores(domains: Mapping[str, Any]) -> None:
    table = Table(title="test metrics with 95 % intervals", title_justify="left")
    table.add_column("metric")
    for name in domains:
        table.add_column(name, justify="right")
        table.add_column("95 % interval", justify="right")
    for key in dict.fromkeys(key for part in domains.values() for key in part["scores"]):
        if key not in _HIDDEN:
            cells = (_score(key, part["scores"].get(key)) for part in domains.values())
            table.add_row(SCORES.get(key, key), *(cell for pair in cells for cell in pair))
    console().print(table)


def _score(name: str, score: Mapping[str, float | None] | None) -> tuple[str, str]:
    if score is None or score["value"] is None:
        return "–", ""
    if name not in SCORES:  # of the user
        return f"{score['value']:.4g}", ""
    if name == "kappa":
        show = "{:.3f}".format
        interval = "" if score["low"] is None else f"{show(score['low'])} to {show(score['high'])}"
        return show(score["value"]), interval
    return percent(score["value"]), _interval(score["low"], score["high"])


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f} %"


def _worst(name: str, part: Mapping[str, Any]) -> None:
    """Print the classes with the lowest recall and the most frequent confusions."""
    wrong = [one for one in part["classes"] if one["support"] and one["recall"] < 1]
    if wrong:
        print(f"lowest recall on the {name}:")
    for one in sorted(wrong, key=lambda one: (one["recall"], -one["support"]))[:CLASSES]:
        ends = _interval(one["recall_low"], one["recall_high"])
        print(
            printable(f"  {one['name']}: {percent(one['recall'])} of {one['support']:,} ({ends})")
        )
    if wrong:
        print(f"most confused on the {name}:")
    for pair in part["confused"][:PAIRS]:
        print(printable(
            f"  {pair['true']} taken for {pair['predicted']}: {pair['samples']:,} "
            f"({percent(pair['share'])} of the class)"
        ))  # fmt: skip


def _groups(name: str, column: str, found: Mapping[str, Any] | None) -> None:
    """Print the accuracy on each group, the lowest first."""
    if found is None:
        print(printable(f"{name} by {column}: more than {MOST_GROUPS} values, so not shown"))
        return
    print(printable(f"accuracy on the {name} by {column}:"))
    for one in sorted(found["groups"], key=lambda one: float(one["accuracy"])):
        mark = " (worst group)" if one["value"] == found["worst"] else ""
        ends = _interval(one["low"], one["high"])
        print(printable(
            f"  {one['value']}: {percent(one['accuracy'])} of {one['samples']:,} ({ends}){mark}"
        ))  # fmt: skip
    if found["unknown"]:
        print(f"  {found['unknown']:,} samples have no value")


def _corruptions(name: str, found: Mapping[str, Any]) -> None:
    """Print the accuracy by corruption and severity, and the mean corruption error."""
    title = f"accuracy on corrupted images of the {name}, unchanged {percent(found['clean'])}"
    table = Table(title=title, title_justify="left")
    table.add_column("severity")
    severities = len(next(iter(found["accuracy"].values())))
    for column in (*range(1, severities + 1), "mean"):
        table.add_column(str(column), justify="right")
    for key, values in found["accuracy"].items():
        cells = (*values, sum(values) / severities)
        table.add_row(key.replace("_", " "), *map(percent, cells))
    console().print(table)
    ends = _interval(found["low"], found["high"])
    print(
        f"mean corruption error {percent(found['error'])}{ends and f' ({ends})'}, "
        f"{points(found['drop'])} points compared with unchanged images"
    )


def _comparison(name: str, found: Mapping[str, Any], other: str) -> None:
    """Print the difference of two models with its interval and McNemar's test."""
    ends = f"95 %: {points(found['low'])} to {points(found['high'])}"
    p = "p < 0.001" if found["p"] < 0.001 else f"p = {found['p']:.3f}"
    print(printable(
        f"compared with {other} on the {name}: {' and '.join(map(percent, found['accuracy']))}, "
        f"difference {points(found['difference'])} points ({ends}); exact McNemar test {p}"
    ))  # fmt: skip
    print(
        f"  {found['both']:,} right for both, {found['only_first']:,} only for the first, "
        f"{found['only_second']:,} only for the second, {found['neither']:,} for neither"
    )
