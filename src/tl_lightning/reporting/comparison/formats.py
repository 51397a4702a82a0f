"""A comparison as Markdown, CSV, JSON and LaTeX, with the figures of its page."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tl_lightning.reporting.comparison.table import Line, Table
from tl_lightning.reporting.formatting import seeds_range
from tl_lightning.reporting.measure import ACCURACY
from tl_lightning.reporting.run.trust import estimate_text
from tl_lightning.reporting.statistics import Interval
from tl_lightning.reporting.sweep.tables import caption, failure_line, mean_text
from tl_lightning.tasks.metrics import is_fraction, label_of
from tl_lightning.utils.text import csv_cell, printable

__all__ = ["FORMATS", "METHOD", "as_json", "cells", "columns", "explanation", "gain", "interval",
           "main_metrics", "metric_text", "records", "rendered", "verdict"]  # fmt: skip

FORMATS = ("html", "md", "csv", "json", "latex")
#: How the figures of a comparison of accuracies are computed.
METHOD = (
    "Metrics in %, mean ± standard deviation over seeds. Differences of {domain} accuracy from the "
    "baseline in points: over several common seeds with the 95 % Student t interval of the paired "
    "differences; with one seed, of the same test samples with Newcombe's interval, and p of "
    "McNemar's exact test."
)


def explanation(table: Table) -> str:
    """Return how the figures of a comparison are computed."""
    others = [line.row for line in table.lines if line.row.measure is not ACCURACY]
    parts = [caption(others, table.domain)] if others else []
    if len(others) < len(table.lines) or not others:
        parts.insert(0, METHOD.format(domain=table.domain))
    return " ".join(parts)


def main_metrics(table: Table) -> set[str]:
    """Return the names of the metrics by which the runs are compared, such as ``acc``."""
    return {line.row.measure.metric for line in table.lines} or {ACCURACY.metric}


def columns(table: Table) -> list[tuple[str, str]]:
    """Return heading and metric of each column; the metric is empty for other columns."""
    keys = dict.fromkeys(key for line in table.lines for key in line.metrics)
    order = sorted(keys, key=lambda key: not key.startswith("target/"))
    metrics = [
        (f"{domain.capitalize()} {label_of(metric)}", f"{domain}/test/{metric}")
        for domain, _, metric in (key.split("/") for key in order)
    ]
    main = main_metrics(table)
    first = [one for one in metrics if one[1].rpartition("/")[2] in main]
    rest = [one for one in metrics if one not in first]
    estimated = [("Expected target", "")] if any(one.estimated for one in table.lines) else []
    warned = [("Not comparable", "")] if any(one.warnings for one in table.lines) else []
    return [
        ("Model", ""), ("Data", ""), *first[: len(main)], ("Difference", ""), ("Verdict", ""),
        *estimated, *first[len(main) :], ("Seeds", ""), ("Selected by", ""), *rest,
        ("Minutes", ""), *warned,
    ]  # fmt: skip


def cells(table: Table, line: Line) -> list[str]:
    """Return the texts of a line, in the order of :func:`columns`."""
    row = line.row
    texts = {
        "Model": row.label + (" *" if row.oracle else ""),
        "Data": row.data,
        "Seeds": seeds_range(row.seeds),
        "Difference": gain(line),
        "Verdict": verdict(line),
        "Expected target": estimate_text(line.estimated),
        "Selected by": row.rule,
        "Minutes": "–" if row.minutes is None else f"{row.minutes:.1f}",
        "Not comparable": "; ".join(line.warnings),
    }
    return [
        metric_text(metric, line.metrics.get(metric)) if metric else texts[name]
        for name, metric in columns(table)
    ]


def metric_text(key: str, interval: Interval | None) -> str:
    """Return mean and standard deviation of a metric, in percent if it is a fraction.

    >>> metric_text("target/test/acc", Interval(0.5, 0.01, 0.4, 0.6, 3))
    '50.0 ± 1.0'
    """
    if interval is None or is_fraction(key.rpartition("/")[2]):
        return mean_text(interval)
    return f"{interval.mean:.4g}" + ("" if interval.std is None else f" ± {interval.std:.2g}")


def gain(line: Line) -> str:
    """Return the difference from the baseline with its interval, of fractions in points."""
    if line.is_baseline or line.comparison is None or line.comparison.interval is None:
        return "baseline" if line.is_baseline else "–"
    shown, measure = interval(line), line.row.measure
    text = measure.difference(line.comparison.interval.mean)
    if shown is None or shown.low is None or shown.high is None:
        return text
    p = "" if line.samples is None else f", {_p(line.samples.p)}"
    return f"{text} ({measure.difference(shown.low)} to {measure.difference(shown.high)}{p})"


def interval(line: Line) -> Interval | None:
    """Return the difference with the interval that its verdict is based on; None without one."""
    found = None if line.comparison is None else line.comparison.interval
    if found is not None and found.n == 1 and line.samples is not None:
        found = line.samples.difference
    return found if found is not None and found.low is not None else None


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def verdict(line: Line) -> str:
    """Return the verdict of a line; upper bounds have none.

    An upper bound is not a result, whatever its difference.
    """
    if line.row.oracle:
        return "upper bound"
    return "" if line.comparison is None else line.comparison.verdict


def rendered(table: Table, kind: str) -> str:
    """Return a comparison as text: ``md``, ``csv``, ``json`` or ``latex``."""
    written: dict[str, Callable[[Table], str]] = {
        "md": _markdown, "csv": _csv, "latex": _latex, "json": _json,
    }  # fmt: skip
    return written[kind](table)


def _lists(table: Table) -> dict[str, Sequence[str]]:
    return {
        "Verdicts": table.verdicts,
        "Not comparable": tuple(
            f"{one.row.label}: {text}" for one in table.lines for text in one.warnings
        ),
        "Failed or missing": tuple(map(failure_line, table.failures)),
        "Notes": table.notes,
    }


def _markdown(table: Table) -> str:
    def line(texts: Sequence[str]) -> str:
        return "| " + " | ".join(_one_line(text).replace("|", "\\|") for text in texts) + " |"

    heads = columns(table)
    ruler = ["---:" if metric or name in ("Difference", "Minutes") else "---"
             for name, metric in heads]  # fmt: skip
    rows = [cells(table, one) for one in table.lines]
    text = "\n".join(map(line, [[name for name, _ in heads], ruler, *rows]))
    text += "\n\n" + explanation(table) + "\n"
    for heading, items in _lists(table).items():
        if items:
            text += f"\n## {heading}\n\n" + "".join(f"- {_one_line(item)}\n" for item in items)
    return text


def _one_line(text: str) -> str:
    return " ".join(printable(text).split())


def records(table: Table) -> list[dict[str, Any]]:
    """Return the lines with unrounded figures: fractions, and errors in the unit of the labels."""
    found = []
    for line in table.lines:
        row, shown = line.row, interval(line)
        record: dict[str, Any] = {
            "model": row.label, "name": row.name, "data": row.data,
            "seeds": " ".join(map(str, row.seeds)), "selected_by": row.rule,
            "uses_target_labels": row.oracle, "baseline": line.is_baseline,
        }  # fmt: skip
        for key, value in sorted(line.metrics.items()):
            record |= {f"{key}_mean": value.mean, f"{key}_std": value.std}
        difference = line.comparison.interval if line.comparison else None
        record |= {
            "compared_with": line.comparison.baseline if line.comparison else None,
            "difference": difference.mean if difference else None,
            "low": shown.low if shown else None,
            "high": shown.high if shown else None,
            "pairs": difference.n if difference else None,
            "samples": line.samples.difference.n if line.samples else None,
            "p": line.samples.p if line.samples else None,
            "verdict": verdict(line),
        }
        names = ("expected_target", "expected_low", "expected_high")
        record |= dict(zip(names, line.estimated or (None,) * 3, strict=True))
        record |= {"minutes": row.minutes, "not_comparable": "; ".join(line.warnings)}
        found.append(record)
    return found


def _csv(table: Table) -> str:
    rows = records(table)
    names = list(dict.fromkeys(key for row in rows for key in row)) or ["model"]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({
            key: csv_cell(_one_line(value)) if isinstance(value, str) else value
            for key, value in row.items()
        })  # fmt: skip
    return buffer.getvalue()


def as_json(table: Table) -> dict[str, Any]:
    """Return a comparison as plain values."""
    rows: list[Mapping[str, Any]] = []
    for record, line in zip(records(table), table.lines, strict=True):
        sentence = line.comparison.sentence if line.comparison else None
        rows.append({**record, "seeds": list(line.row.seeds), "sentence": sentence,
                     "not_comparable": list(line.warnings),
                     "folders": {str(k): v for k, v in line.row.folders.items()}})  # fmt: skip
    return {
        "schema": 1, "kind": "comparison", "domain": table.domain, "rows": rows,
        "failures": [failure_line(one) for one in table.failures], "notes": list(table.notes),
    }  # fmt: skip


def _json(table: Table) -> str:
    return json.dumps(as_json(table), indent=2, allow_nan=False) + "\n"


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "–": "--", "<": "$<$", ">": "$>$",
}  # fmt: skip


def latex(text: str) -> str:
    r"""Return a text with LaTeX's special characters escaped, and minus signs.

    >>> latex("a_b 50.0 ± 1.0"), latex("-1.5 (-2.0 to +3.0)")
    ('a\\_b 50.0 $\\pm$ 1.0', '$-$1.5 ($-$2.0 to +3.0)')
    """
    escaped = "".join(_LATEX.get(letter, letter) for letter in _one_line(text))
    return re.sub(r"(?<![\w.-])-(?=\d)", "$-$", escaped)


def _latex(table: Table) -> str:
    """Return a tabular of the package booktabs, without columns that are empty everywhere."""
    heads = columns(table)
    rows = [cells(table, one) for one in table.lines]
    kept = [
        index
        for index, (name, _) in enumerate(heads)
        if name != "Not comparable" and any(row[index] not in ("", "–") for row in rows)
    ]
    sides = "".join(
        "r" if heads[i][1] or heads[i][0] in ("Difference", "Minutes") else "l" for i in kept
    )
    lines = [" & ".join(latex(row[i]) for i in kept) + r" \\" for row in rows]
    head = " & ".join(latex(heads[i][0]) for i in kept) + r" \\"
    comments = [explanation(table)]
    comments += [f"{name}: {item}" for name, items in _lists(table).items() for item in items]
    return "\n".join([
        *(f"% {_one_line(text)}" for text in comments),
        rf"\begin{{tabular}}{{@{{}}{sides}@{{}}}}",
        r"\toprule", head, r"\midrule", *lines, r"\bottomrule", r"\end{tabular}", "",
    ])  # fmt: skip
