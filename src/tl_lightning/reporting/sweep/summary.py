"""Summary of a sweep: means over seeds and paired differences from baselines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tl_lightning.config.schema import BASELINES
from tl_lightning.reporting.estimates import compared_names, estimated_accuracy
from tl_lightning.reporting.formatting import (
    seeds_range,
    trained_on_target,
    uses_target_labels,
)
from tl_lightning.reporting.measure import MEASURES, Measure, measure_of
from tl_lightning.reporting.schema import fingerprint_of
from tl_lightning.reporting.statistics import Interval, student
from tl_lightning.reporting.sweep.compare import Comparison, Group, compare
from tl_lightning.reporting.sweep.multitask import (
    ALONE,
    against_alone,
    aux_task_means,
    named,
    shown_keys,
)
from tl_lightning.utils.text import flatten

__all__ = ["Failure", "Row", "Summary", "labels_of", "summarise"]

Run = Mapping[str, Any]
# Config keys that differ between runs without changing the method.
PRIVATE = (
    "seed", "name", "data.name", "baseline_of", "baselines", "track_target", "run", "hydra",
    "output", "paths", "logger", "report", "resume", "allow", "callbacks.adversary_monitor",
    "data.num_workers", "trainer.timeout_s", "checkpointing.keep_last",
    "checkpointing.every_minutes", "checkpointing.every_n_steps", "checkpointing.min_seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One configuration, aggregated over its seeds.

    Attributes:
        label: Name, with the settings that distinguish it from other rows of that name.
        name: Model preset, such as ``dann``.
        data: Data preset.
        group: Hash of the configuration without the seed.
        seeds: In ascending order.
        target: ``target/test/acc`` over the seeds; None without target labels.
        source: ``source/test/acc`` over the seeds.
        target_by_seed: ``target/test/acc`` by seed.
        rule: Selection rule.
        oracle: Whether target labels were used for training or selection.
        minutes: Mean duration of one run.
        folders: Folder of the run of each seed, relative to that of the sweep.
        comparisons: Paired differences by baseline name.
        aux_tasks: Test metrics of the auxiliary tasks, such as ``target coarse/acc``.
        estimated: Mean estimated target accuracy, and the lowest and highest ends of the
            intervals; None with target labels.
        compared_with: Names of the models that the estimates were compared with.
        metric: Test metric in place of the accuracy, see :data:`.MEASURES`.
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
    folders: dict[int, str] = field(default_factory=dict)
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    aux_tasks: dict[str, Interval] = field(default_factory=dict)
    estimated: tuple[float, float, float] | None = None
    compared_with: tuple[str, ...] = ()
    metric: str = "acc"

    @property
    def measure(self) -> Measure:
        """The figure by which the row is compared with others."""
        return MEASURES[self.metric]


@dataclass(frozen=True)
class Failure:
    """A job without a result."""

    folder: str
    error: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Summary:
    """The content of a sweep's table.

    Attributes:
        rows: By dataset; within one source-only, joint batch norm, methods, upper bounds.
        verdicts: One sentence per method and baseline, in the order of the rows.
        failures: Jobs that failed or have no report.
        notes: Missing seeds, repeated runs, upper bounds and other caveats.
    """

    rows: tuple[Row, ...]
    verdicts: tuple[str, ...]
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]


def summarise(reports: Iterable[Mapping[str, Any]]) -> Summary:
    """Group runs by (name, data, group) and compare each group with the baselines.

    Args:
        reports: Result of :func:`tl_lightning.reporting.sweep.page.collect`; entries of kind
            ``failed`` and unfinished runs are listed as failures.

    Returns:
        The summary. Differences are paired by seed, which cancels noise common to both runs.
    """
    runs, failures = [], []
    for report in reports:
        if report.get("kind") == "run" and report.get("status", "finished") == "finished":
            runs.append(report)
        else:
            failures.append(_failure(report))
    notes: list[str] = []
    groups, repeats = _groups(runs)
    notes += _repeat_notes(repeats) + _data_notes(groups)
    labels = labels_of(groups)
    ordered = sorted(groups, key=lambda group: (*_rank(group), labels[group.key]))
    rows = [_row(group, labels, ordered, notes) for group in ordered]
    verdicts = [item.sentence for row in rows for item in row.comparisons.values()]
    notes += _missing_seeds(rows) + _caveats(rows)
    if any((run.get("predicted") or {}).get("target") for run in runs):
        notes.append(
            "Some runs have a target without labels, hence no target accuracy; their pages show "
            "what they predict."
        )
    notes += [
        f"The estimate of {run.get('folder')} was not compared with other models: {reason}."
        for run in runs
        if (reason := run.get("not_compared"))
    ]
    if any(run.get("tracks_target") for run in runs):
        notes.append(
            "Some runs logged accuracy on labelled target validation data for a study "
            "(track_target=true)."
        )
    return Summary(tuple(rows), tuple(verdicts), tuple(failures), tuple(dict.fromkeys(notes)))


def _failure(report: Mapping[str, Any]) -> Failure:
    error = report.get("error") or f"ended with status {report.get('status')!r}"
    overrides = report.get("overrides") or ()
    return Failure(str(report.get("folder", "?")), str(error), tuple(map(str, overrides)))


def _groups(runs: list[Run]) -> tuple[list[Group], list[tuple[Run, Run]]]:
    """Return one group per (name, data, group), and repeated seeds as (counted, repeated).

    Runs on different data are different groups, whose last part begins with the fingerprint.
    """
    repeats = []
    known: dict[tuple[str, ...], set[str]] = {}
    for run in runs:
        known.setdefault(_key(run), set()).update(filter(None, [fingerprint_of(run)]))
    groups: dict[tuple[str, str, str], Group] = {}
    for run in sorted(runs, key=lambda run: str(run.get("folder", ""))):
        key = _key(run)
        if len(known[key]) > 1:
            key = (*key[:2], f"data {str(fingerprint_of(run))[:8]} {key[2]}")
        group = groups.setdefault(key, Group(key, {}, named(flatten(run.get("config")))))
        seed = int(run.get("seed") or 0)
        first = group.runs.setdefault(seed, run)
        if first is not run:
            repeats.append((first, run))
    return list(groups.values()), repeats


def _key(run: Run) -> tuple[str, str, str]:
    return (str(run.get("name")), str(run.get("data")), str(run.get("group")))


def _data_notes(groups: list[Group]) -> list[str]:
    """Return notes on configurations whose runs were trained on different data."""
    several = dict.fromkeys(group.key[:2] for group in groups if group.key[2].startswith("data "))
    return [
        f"The data of {name} on {data} changed between its runs (their fingerprints differ), which "
        "are in separate rows."
        for name, data in several
    ]


def _repeat_notes(repeats: list[tuple[Run, Run]]) -> list[str]:
    """Return notes on repeated runs: a count of the identical ones, the others one by one."""
    notes, identical = [], Counter[str]()
    for first, repeat in repeats:
        metric = f"target/test/{measure_of(first).metric}"
        target = [(run.get("metrics") or {}).get(metric) for run in (first, repeat)]
        if target[0] == target[1]:
            identical[str(first.get("name"))] += 1
            continue
        notes.append(
            f"{first.get('name')} seed {first.get('seed')} was run twice with different target "
            f"accuracies: {first.get('folder', '?')} with {target[0]} is counted, "
            f"{repeat.get('folder', '?')} with {target[1]} is not."
        )
    for name, count in identical.items():
        runs = f"{count} repeated run{'' if count == 1 else 's'}"
        notes.append(f"{name}: {runs} with the same seed and target accuracy, counted once.")
    return notes


def _rank(group: Group) -> tuple[str, int, str]:
    """Return the sort key of a group: by data, baselines first, upper bounds last."""
    order = list(BASELINES)
    position = order.index(group.name) if group.name in order else len(order)
    if _oracle(group):
        position = len(order) + 1 + _trained_on_target(group)
    return group.key[1], position, group.name


def _oracle(group: Group) -> bool:
    return any(uses_target_labels(run) for run in group.runs.values())


def _trained_on_target(group: Group) -> bool:
    return any(trained_on_target(run) for run in group.runs.values())


def labels_of(groups: list[Group]) -> dict[tuple[str, str, str], str]:
    """Return labels by group key, with the settings in which groups of one name and data differ."""
    labels = {}
    for group in groups:
        same_name = [other for other in groups if other.key[:2] == group.key[:2]]
        keys = _differing(same_name)
        settings = [f"{key}={group.settings[key]}" for key in keys if key in group.settings]
        if len(settings) > 4:
            settings = [*settings[:3], f"and {len(settings) - 3} more"]
        labels[group.key] = " ".join([group.name, *settings])
    uses = Counter((key[1], label) for key, label in labels.items())
    return {
        key: f"{label} [{key[2].rpartition(' ')[0] or key[2][:8]}]"
        if uses[key[1], label] > 1
        else label
        for key, label in labels.items()
    }


def _version(key: tuple[str, str, str]) -> str:
    """Return what distinguishes a group from others of equal settings: its data, or its hash."""
    return key[2].rpartition(" ")[0] or key[2][:8]


def _differing(groups: list[Group]) -> list[str]:
    keys = dict.fromkeys(key for group in groups for key in group.settings)
    public = [
        k
        for k in keys
        # Nested seeds equal the seed of the run and may differ between the first runs of groups.
        if not k.endswith(".seed") and not any(k == p or k.startswith(f"{p}.") for p in PRIVATE)
    ]
    public = shown_keys(public, groups)
    return [k for k in public if len({repr(group.settings.get(k)) for group in groups}) > 1]


def _row(
    group: Group, labels: dict[tuple[str, str, str], str], groups: list[Group], notes: list[str]
) -> Row:
    rules = sorted({str((run.get("selection") or {}).get("rule")) for run in group.runs.values()})
    totals = [(run.get("timing") or {}).get("total_s") for run in group.runs.values()]
    times = [float(value) for value in totals if isinstance(value, (int, float))]
    values = {domain: group.accuracies(domain) for domain in ("target", "source")}
    baselines = [
        name
        for index, name in enumerate(BASELINES)
        if group.name not in list(BASELINES)[: index + 1]
    ]
    if _trained_on_target(group):
        baselines = baselines[:1]  # upper bounds are compared with source-only alone
    comparisons = {}
    for name in baselines if values["target"] else []:
        candidates = [other for other in groups if other.name == name and other is not group]
        if not candidates and name != baselines[0]:
            continue  # only the first baseline is reported as missing
        comparisons[name] = compare(group, candidates, name, labels, _oracle(group))
        notes.extend(comparisons[name].notes)
    alone = against_alone(group, groups, labels, _oracle(group))
    if alone is not None:
        comparisons[ALONE] = alone
        notes.extend(alone.notes)
    means = {domain: student(list(accs.values())) for domain, accs in values.items() if accs}
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
        folders={seed: str(run.get("folder", ".")) for seed, run in sorted(group.runs.items())},
        comparisons=comparisons,
        aux_tasks=aux_task_means(group),
        estimated=None if values["target"] else _estimated(group),
        compared_with=() if values["target"] else _compared_with(group),
        metric=group.measure.metric,
    )


def _estimated(group: Group) -> tuple[float, float, float] | None:
    found = [estimated_accuracy(run) for run in group.runs.values()]
    known = [one for one in found if one is not None]
    if not known:
        return None
    value, low, high = zip(*known, strict=True)
    return sum(value) / len(value), min(low), max(high)


def _compared_with(group: Group) -> tuple[str, ...]:
    names = [name for run in group.runs.values() for name in compared_names(run)]
    return tuple(dict.fromkeys(names))


def _missing_seeds(rows: list[Row]) -> list[str]:
    """Return notes on rows without seeds that other rows of the same data have."""
    notes = []
    for row in rows:
        expected = {seed for other in rows if other.data == row.data for seed in other.seeds}
        missing = sorted(expected - set(row.seeds))
        if missing:
            seeds = f"seed{'' if len(missing) == 1 else 's'} {seeds_range(missing)}"
            notes.append(f"{row.label} on {row.data} is missing {seeds}, which other rows have.")
    return notes


def _caveats(rows: list[Row]) -> list[str]:
    notes = []
    if any(row.oracle for row in rows):
        notes.append(
            "Rows marked * were selected with or trained on target labels: upper bounds, not "
            "results."
        )
    intervals = [item.interval for row in rows for item in row.comparisons.values()]
    count = sum(item is not None and item.low is not None for item in intervals)
    if count > 1:
        notes.append(
            f"The 95 % intervals are not corrected for multiple comparisons: of {count} "
            "comparisons, some may exclude zero by chance."
        )
    few = [row.label for row in rows if row.seeds and len(row.seeds) < 3]
    if few:
        notes.append(f"Fewer than three seeds: {', '.join(dict.fromkeys(few))}.")
    return notes
