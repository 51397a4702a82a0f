"""From the runs of a sweep to one table: means over seeds and paired differences to baselines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tl_lightning.reporting.formatting import (
    BASELINES,
    seeds_range,
    taught_by_target,
    uses_target_labels,
)
from tl_lightning.reporting.statistics import Interval, student
from tl_lightning.reporting.sweep.compare import Comparison, Group, compare
from tl_lightning.reporting.sweep.multitask import (
    ALONE,
    against_alone,
    further_means,
    named,
    shown_keys,
)
from tl_lightning.utils.text import flatten

__all__ = ["Failure", "Row", "Summary", "summarise"]

Run = Mapping[str, Any]
# Keys that differ from run to run without being a choice of method.
PRIVATE = (
    "seed", "name", "data.name", "baseline_of", "bracket", "track_target", "run", "hydra", "output",
    "paths", "logger", "report", "resume", "allow", "callbacks.health", "data.num_workers",
    "trainer.timeout_s", "checkpoint.keep_last", "checkpoint.every_minutes",
    "checkpoint.every_n_steps", "checkpoint.min_seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One configuration over its seeds.

    Attributes:
        label: Name, and the settings that tell it from others of its name.
        name: Model preset, such as ``dann``.
        data: Data preset.
        group: Hash of the configuration without the seed.
        seeds: In ascending order.
        target: ``target/test/acc`` over the seeds; None without a labelled target.
        source: ``source/test/acc`` likewise.
        target_by_seed: The single values, by seed.
        rule: How the model was chosen.
        oracle: Whether target labels chose it or taught it.
        minutes: Mean duration of one run.
        comparisons: Baseline name to the paired difference.
        further: ``target coarse/acc`` and its like: what the further tasks reached.
    """

    label: str
    name: str
    data: str
    group: str
    seeds: tuple[int, ...]
    target: Interval | None
    source: Interval | None
    target_by_seed: dict[int, float]
    rule: str
    oracle: bool
    minutes: float | None
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    further: dict[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """A job without a result."""

    folder: str
    error: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Summary:
    """A sweep in one table.

    Attributes:
        rows: Source-only first, then joint batch norm, the adapted, and last what used target
            labels; by data set.
        verdicts: One plain sentence per method and baseline, in the order of the rows.
        failures: Jobs that failed or left no report.
        notes: What a reader should know: seeds missing, runs counted once, bounds.
    """

    rows: tuple[Row, ...]
    verdicts: tuple[str, ...]
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]


def summarise(reports: Iterable[Mapping[str, Any]]) -> Summary:
    """Group runs by (name, data, group) and hold each group against the baselines.

    Args:
        reports: As :func:`tl_lightning.reporting.sweep.page.collect` gives them; entries of kind
            ``failed`` and runs that did not finish are listed as failures.

    Returns:
        The summary; differences are paired by seed, so noise that seeds share drops out.
    """
    runs, failures = [], []
    for report in reports:
        if report.get("kind") == "run" and report.get("status", "finished") == "finished":
            runs.append(report)
        else:
            failures.append(_failure(report))
    notes: list[str] = []
    groups, repeats = _groups(runs)
    notes += _repeats(repeats)
    labels = _labels(groups)
    ordered = sorted(groups, key=lambda group: (*_rank(group), labels[group.key]))
    rows = [_row(group, labels, ordered, notes) for group in ordered]
    verdicts = [item.sentence for row in rows for item in row.comparisons.values()]
    notes += _missing_seeds(rows) + _remarks(rows)
    if any(run.get("tracks_target") for run in runs):
        notes.append(
            "Some runs logged accuracy on labelled target validation for a study "
            "(track_target=true)."
        )
    return Summary(tuple(rows), tuple(verdicts), tuple(failures), tuple(dict.fromkeys(notes)))


def _failure(report: Mapping[str, Any]) -> Failure:
    error = report.get("error") or f"ended with status {report.get('status')!r}"
    overrides = report.get("overrides") or ()
    return Failure(str(report.get("folder", "?")), str(error), tuple(map(str, overrides)))


def _groups(runs: list[Run]) -> tuple[list[Group], list[tuple[Run, Run]]]:
    """Return one group a (name, data, group), each seed once, and what came (first, again)."""
    repeats = []
    groups: dict[tuple[str, str, str], Group] = {}
    for run in sorted(runs, key=lambda run: str(run.get("folder", ""))):
        key = (str(run.get("name")), str(run.get("data")), str(run.get("group")))
        group = groups.setdefault(key, Group(key, {}, named(flatten(run.get("config")))))
        seed = int(run.get("seed") or 0)
        first = group.runs.setdefault(seed, run)
        if first is not run:
            repeats.append((first, run))
    return list(groups.values()), repeats


def _repeats(repeats: list[tuple[Run, Run]]) -> list[str]:
    """Say which runs are counted once: those that agree by number, the others one by one."""
    notes, agreeing = [], Counter[str]()
    for first, again in repeats:
        figures = [(run.get("metrics") or {}).get("target/test/acc") for run in (first, again)]
        if figures[0] == figures[1]:
            agreeing[str(first.get("name"))] += 1
            continue
        notes.append(
            f"{first.get('name')} seed {first.get('seed')} was run twice and the target figures "
            f"differ: {first.get('folder', '?')} with {figures[0]} is counted, "
            f"{again.get('folder', '?')} with {figures[1]} is not."
        )
    for name, count in agreeing.items():
        notes.append(f"{name}: {count} more of the same seed and figure, each seed counted once.")
    return notes


def _rank(group: Group) -> tuple[str, int, str]:
    """Return the place of a group: by data, baselines first, bounds last."""
    order = list(BASELINES)
    place = order.index(group.name) if group.name in order else len(order)
    if _oracle(group):
        place = len(order) + 1 + _taught(group)
    return group.key[1], place, group.name


def _oracle(group: Group) -> bool:
    return any(uses_target_labels(run) for run in group.runs.values())


def _taught(group: Group) -> bool:
    return any(taught_by_target(run) for run in group.runs.values())


def _labels(groups: list[Group]) -> dict[tuple[str, str, str], str]:
    """Return group key to label; groups of one name and data get the settings that differ."""
    labels = {}
    for group in groups:
        alike = [other for other in groups if other.key[:2] == group.key[:2]]
        keys = _differing(alike)
        settings = [f"{key}={group.config[key]}" for key in keys if key in group.config]
        if len(settings) > 4:
            settings = [*settings[:3], f"and {len(settings) - 3} more"]
        labels[group.key] = " ".join([group.name, *settings])
    taken = Counter((key[1], label) for key, label in labels.items())
    return {
        key: f"{label} [{key[2][:8]}]" if taken[key[1], label] > 1 else label
        for key, label in labels.items()
    }


def _differing(groups: list[Group]) -> list[str]:
    keys = dict.fromkeys(key for group in groups for key in group.config)
    public = [
        k
        for k in keys
        # Every part's seed is the run's: two groups may begin with different ones.
        if not k.endswith(".seed") and not any(k == p or k.startswith(f"{p}.") for p in PRIVATE)
    ]
    public = shown_keys(public, groups)
    return [k for k in public if len({repr(group.config.get(k)) for group in groups}) > 1]


def _row(
    group: Group, labels: dict[tuple[str, str, str], str], groups: list[Group], notes: list[str]
) -> Row:
    rules = sorted({str((run.get("selection") or {}).get("rule")) for run in group.runs.values()})
    total = [(run.get("timing") or {}).get("total_s") for run in group.runs.values()]
    times = [float(value) for value in total if isinstance(value, (int, float))]
    values = {domain: group.accuracies(domain) for domain in ("target", "source")}
    against = [
        name
        for place, name in enumerate(BASELINES)
        if group.name not in list(BASELINES)[: place + 1]
    ]
    against = against[:1] if _taught(group) else against  # a bound says how much there is to gain
    comparisons = {}
    for name in against if values["target"] else []:
        candidates = [other for other in groups if other.name == name and other is not group]
        if not candidates and name != against[0]:
            continue  # only the first baseline is missed where it is not
        comparisons[name] = compare(group, candidates, name, labels, _oracle(group))
        notes.extend(comparisons[name].notes)
    alone = against_alone(group, groups, labels, _oracle(group))
    if alone is not None:
        comparisons[ALONE] = alone
        notes.extend(alone.notes)
    means = {domain: student(list(found.values())) for domain, found in values.items() if found}
    return Row(
        label=labels[group.key],
        name=group.name,
        data=group.key[1],
        group=group.key[2],
        seeds=tuple(sorted(group.runs)),
        target=means.get("target"),
        source=means.get("source"),
        target_by_seed=values["target"],
        rule=", ".join(rules),
        oracle=_oracle(group),
        minutes=sum(times) / len(times) / 60 if times else None,
        comparisons=comparisons,
        further=further_means(group),
    )


def _missing_seeds(rows: list[Row]) -> list[str]:
    """Say which rows lack seeds that other rows of the same data have."""
    notes = []
    for row in rows:
        every = {seed for other in rows if other.data == row.data for seed in other.seeds}
        missing = sorted(every - set(row.seeds))
        if missing:
            word = "seed" if len(missing) == 1 else "seeds"
            named = f"{word} {seeds_range(missing)}"
            notes.append(f"{row.label} on {row.data} lacks {named}, which others have.")
    return notes


def _remarks(rows: list[Row]) -> list[str]:
    notes = []
    if any(row.oracle for row in rows):
        notes.append(
            "Rows marked * were chosen with target labels or learned from them: upper bounds, not "
            "results."
        )
    intervals = [item.interval for row in rows for item in row.comparisons.values()]
    judged = sum(found is not None and found.low is not None for found in intervals)
    if judged > 1:
        notes.append(
            f"Each interval is a 95 % one by itself; with {judged} comparisons some exclude zero "
            "by chance."
        )
    few = [row.label for row in rows if row.seeds and len(row.seeds) < 3]
    if few:
        notes.append(f"Too few seeds to say much (under three): {', '.join(dict.fromkeys(few))}.")
    return notes
