"""Content of a comparison: a line for each configuration, with its difference from a baseline."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tl_lightning.config.schema import BASELINES
from tl_lightning.errors import ConfigError, DataError, nearest
from tl_lightning.reporting.artifacts import read_predictions
from tl_lightning.reporting.comparison.comparable import differences
from tl_lightning.reporting.estimates import estimated_accuracy
from tl_lightning.reporting.measure import ACCURACY
from tl_lightning.reporting.statistics import Interval, mcnemar, newcombe, student
from tl_lightning.reporting.sweep.compare import Comparison, Group, compare
from tl_lightning.reporting.sweep.multitask import named
from tl_lightning.reporting.sweep.page import collect
from tl_lightning.reporting.sweep.summary import Failure, Row, summarise
from tl_lightning.utils.text import flatten

__all__ = ["Line", "Table", "compared", "gathered"]

Run = Mapping[str, Any]


@dataclass(frozen=True)
class Samples:
    """The test samples on which two runs of one seed differ.

    Attributes:
        difference: Of the accuracies, with Newcombe's interval for paired samples.
        p: McNemar's exact test.
    """

    difference: Interval
    p: float


@dataclass(frozen=True)
class Line:
    """One configuration, over its seeds.

    Attributes:
        row: As in the table of a sweep.
        metrics: Test metrics over the seeds, such as ``target/test/f1``.
        estimated: Mean estimated target accuracy, and the lowest and highest ends of the intervals.
        comparison: With the baseline; None for the baseline itself.
        samples: Of the only seed, if the predictions of both runs are there.
        is_baseline: Whether others are compared with it.
        warnings: In what it is not comparable with its baseline.
    """

    row: Row
    metrics: dict[str, Interval]
    estimated: tuple[float, float, float] | None
    comparison: Comparison | None
    samples: Samples | None
    is_baseline: bool
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """The content of a comparison.

    Attributes:
        lines: By dataset; baselines first, upper bounds last.
        domain: Domain of the compared accuracy: ``target``, or ``source`` without target labels.
        failures: Jobs without a result.
        notes: Caveats.
    """

    lines: tuple[Line, ...]
    domain: str
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]

    @property
    def verdicts(self) -> tuple[str, ...]:
        """One sentence for each line that is compared."""
        return tuple(one.comparison.sentence for one in self.lines if one.comparison)


def gathered(paths: Iterable[str], start: Path) -> list[dict[str, Any]]:
    """Return the reports of runs, or of all runs in folders, with ``folder`` relative to ``start``.

    Args:
        paths: Folders of runs or sweeps; ``*`` is expanded. Baselines of a run are included.
        start: Folder that the comparison is written to.

    Raises:
        DataError: If a folder does not exist or contains no runs.
    """
    entries: dict[Path, dict[str, Any]] = {}
    for text in paths:
        expanded = os.path.expanduser(text)
        found = sorted(glob.glob(expanded)) if glob.has_magic(expanded) else [expanded]
        if not found:
            raise DataError(f"runs={text} matches no folder; set runs=[<run folder>,...]")
        for name in found:
            for entry in collect(name):
                place = (Path(name) / entry["folder"]).resolve()
                relative = Path(os.path.relpath(place, start.resolve())).as_posix()
                entries.setdefault(place, {**entry, "folder": relative})
    return list(entries.values())


def compared(reports: Sequence[Run], start: Path, baseline: str | None = None) -> Table:
    """Compare runs with a baseline on the same data.

    Args:
        reports: Result of :func:`gathered`.
        start: Folder that their ``folder`` is relative to.
        baseline: Name, label or folder of the baseline; None: ``source_only`` if there is one, then
            ``joint_bn``, otherwise the first.

    Raises:
        ConfigError: If no run is the baseline.
        DataError: If a file of predictions is damaged.
    """
    summary = summarise(reports)
    folders = {str(report.get("folder")): report for report in reports}
    groups = {
        id(row): Group(
            (row.name, row.data, row.group),
            {seed: folders[folder] for seed, folder in row.folders.items()},
            named(flatten(folders[next(iter(row.folders.values()))].get("config"))),
        )
        for row in summary.rows
    }
    domain = "target" if any(row.target is not None for row in summary.rows) else "source"
    chosen = _baselines(summary.rows, baseline, start)
    lines = [
        _line(row, [one for one in chosen if one.data == row.data], groups, domain, start)
        for row in summary.rows
    ]
    count = sum(one.comparison is not None and one.comparison.interval is not None for one in lines)
    notes = [note for note in summary.notes if "multiple comparisons" not in note]
    if count > 1:
        notes.append(
            f"The 95 % intervals are not corrected for multiple comparisons: of {count} "
            "comparisons, some may exclude zero by chance."
        )
    return Table(tuple(lines), domain, summary.failures, tuple(notes))


def _baselines(rows: Sequence[Row], wanted: str | None, start: Path) -> list[Row]:
    """Return the rows that others are compared with: those wanted, or one kind per dataset."""
    if wanted is None:
        found = []
        for data in dict.fromkeys(row.data for row in rows):
            own = [row for row in rows if row.data == data]
            for name in (*BASELINES, own[0].name):
                if same := [row for row in own if row.name == name and not row.oracle]:
                    found += same
                    break
            else:
                found.append(own[0])
        return found
    place = Path(wanted).expanduser()
    found = [
        row
        for row in rows
        if wanted in (row.name, row.label)
        or (place.is_dir() and any((start / one).resolve() == place.resolve()
                                   for one in row.folders.values()))
    ]  # fmt: skip
    if not found:
        names = sorted({row.name for row in rows})
        raise ConfigError(
            f"baseline={wanted} is not one of the compared runs; {nearest(wanted, names)}"
        )
    return found


def _line(
    row: Row, chosen: Sequence[Row], groups: Mapping[int, Group], domain: str, start: Path
) -> Line:
    group, is_baseline = groups[id(row)], any(one is row for one in chosen)
    comparison, samples = None, None
    warnings: tuple[str, ...] = ()
    others = [one for one in chosen if one is not row and one.measure == row.measure]
    if others and not is_baseline:
        labels = {groups[id(one)].key: one.label for one in (row, *others)}
        candidates = [groups[id(one)] for one in others]
        paired_samples = row.measure is ACCURACY  # the intervals are those of proportions
        samples = _samples(group, candidates, domain, start) if paired_samples else None
        name = others[0].name if others[0].name in BASELINES else others[0].label
        paired = None if samples is None else samples.difference
        comparison = compare(group, candidates, name, labels, row.oracle, domain, paired)
        base = next((one for one in others if one.label == comparison.baseline), others[0])
        warnings = tuple(differences(group, groups[id(base)], base.label))
    return Line(row, _metrics(group), _estimated(group), comparison, samples, is_baseline, warnings)


def _metrics(group: Group) -> dict[str, Interval]:
    values: dict[str, list[float]] = {}
    for _, run in sorted(group.runs.items()):
        for key, value in (run.get("metrics") or {}).items():
            metric = key.partition("/test/")[2]
            if metric and "/" not in metric and isinstance(value, int | float):
                values.setdefault(key, []).append(float(value))
    return {key: student(numbers) for key, numbers in values.items()}


def _estimated(group: Group) -> tuple[float, float, float] | None:
    found = [estimated_accuracy(run) for run in group.runs.values()]
    known = [one for one in found if one is not None]
    if not known:
        return None
    value, low, high = zip(*known, strict=True)
    return sum(value) / len(value), min(low), max(high)


def _samples(group: Group, candidates: Sequence[Group], domain: str, start: Path) -> Samples | None:
    """Compare predictions with those of the only candidate, if they have one seed in common."""
    shared = group.runs.keys() & candidates[0].runs.keys()
    if len(shared) != 1 or len(candidates) != 1:
        return None
    seed = next(iter(shared))
    found = [_right(one.runs[seed], domain, start) for one in (group, candidates[0])]
    if found[0] is None or found[1] is None or not np.array_equal(found[0][0], found[1][0]):
        return None
    own, base = found[0][1], found[1][1]
    only, other = int((own & ~base).sum()), int((~own & base).sum())
    both = int((own & base).sum())
    return Samples(
        newcombe(both, only, other, len(own) - both - only - other), mcnemar(only, other)
    )


def _right(run: Run, domain: str, start: Path) -> tuple[Any, Any] | None:
    """Return the labels, and whether each prediction is right, if these are those of the report."""
    classes = [str(name) for name in (run.get("dataset") or {}).get("classes") or []]
    file = start / str(run.get("folder")) / "predictions.npz"
    pair = read_predictions(file, classes).pair(domain)
    accuracy = (run.get("metrics") or {}).get(f"{domain}/test/acc")
    if pair is None or not isinstance(accuracy, int | float):
        return None
    right = pair[0] == pair[1]
    return (pair[0], right) if abs(float(right.mean()) - accuracy) <= 1e-3 else None
