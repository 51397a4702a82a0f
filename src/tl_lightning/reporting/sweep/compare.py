"""Comparison of a configuration with a baseline, paired by seed and dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tl_lightning.config.schema import BASELINES
from tl_lightning.reporting.formatting import (
    points,
    seeds_text,
    trained_on_target,
    uses_target_labels,
)
from tl_lightning.reporting.measure import ACCURACY, Measure, measure_of
from tl_lightning.reporting.schema import fingerprint_of
from tl_lightning.reporting.statistics import Interval, student

__all__ = ["Comparison", "Group", "compare", "span_text"]

Key = tuple[str, str, str]
Pairs = dict[int, tuple[float, float]]


@dataclass(frozen=True)
class Group:
    """Runs of one configuration.

    Attributes:
        key: (name, data, group).
        runs: Seed to report.
        settings: Values of the configuration by dotted key.
    """

    key: Key
    runs: dict[int, Mapping[str, Any]]
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the model preset."""
        return self.key[0]

    @property
    def measure(self) -> Measure:
        """The figure by which the runs are compared."""
        return measure_of(next(iter(self.runs.values()), {}))

    def accuracies(self, domain: str) -> dict[int, float]:
        """Return the test accuracy, or another :attr:`measure`, by seed, of runs that have one."""
        found = {
            seed: (run.get("metrics") or {}).get(f"{domain}/test/{self.measure.metric}")
            for seed, run in sorted(self.runs.items())
        }
        return {seed: float(v) for seed, v in found.items() if isinstance(v, (int, float))}


@dataclass(frozen=True)
class Comparison:
    """A method compared with one baseline.

    Attributes:
        baseline: Label of the baseline's row; None without pairs.
        seeds: The paired seeds.
        interval: Difference of target accuracy, or of another :class:`.Measure`, with its interval:
            method minus baseline.
        verdict: ``helped``, ``hurt``, ``no clear difference``, ``one seed``, ``no spread`` or
            ``no pairs``.
        sentence: The verdict as text.
        notes: Seeds that could not be paired, and why.
    """

    baseline: str | None
    seeds: tuple[int, ...]
    interval: Interval | None
    verdict: str
    sentence: str
    notes: tuple[str, ...] = ()


class Match(NamedTuple):
    """A baseline and the accuracies of the seeds that it shares with a method."""

    group: Group
    pairs: Pairs
    refused: tuple[int, ...]


def compare(
    group: Group,
    candidates: list[Group],
    name: str,
    labels: Mapping[Key, str],
    bound: bool,
    domain: str = "target",
    paired: Interval | None = None,
) -> Comparison:
    """Return the paired difference in test accuracy between ``group`` and its nearest baseline.

    The nearest baseline uses the same data and differs in the fewest config keys; ties are broken
    by the number of shared seeds.

    Args:
        group: The method.
        candidates: Groups with the name of the baseline.
        name: ``source_only`` or ``joint_bn``, or the display name of another baseline.
        labels: Group key to label.
        bound: Whether the method's models were selected with target labels.
        domain: Domain of the test accuracy.
        paired: Difference on the same test samples, for a comparison of one run.
    """
    same = [other for other in candidates if other.key[1] == group.key[1]]
    matches = [_match(group, other, domain) for other in same]
    usable = [match for match in matches if match.pairs]
    if not usable:
        return _unpaired(labels[group.key], name, matches)
    best = min(usable, key=lambda match: (_distance(group, match.group), -len(match.pairs)))
    interval = student([own - base for own, base in best.pairs.values()])
    reference = BASELINES.get(name, name) if len(same) == 1 else labels[best.group.key]
    alone = paired if interval.n == 1 else None
    verdict, sentence = _verdict(labels[group.key], reference, interval, alone, group.measure)
    if any(trained_on_target(run) for run in group.runs.values()):
        sentence += "; trained on target labels, so this is an upper bound"
    elif bound:
        sentence += "; selected with target labels, so this is an upper bound"
    elif any(uses_target_labels(run) for run in best.group.runs.values()):
        sentence += "; the baseline was selected with target labels, which favours the baseline"
    baseline = labels[best.group.key]
    notes = _refused_notes(labels[group.key], baseline, best.refused)
    return Comparison(baseline, tuple(best.pairs), interval, verdict, sentence + ".", notes)


def _match(group: Group, other: Group, domain: str) -> Match:
    """Pair the seeds of two groups; refuse those with different data fingerprints."""
    own, base = group.accuracies(domain), other.accuracies(domain)
    pairs, refused = {}, []
    for seed in sorted(own.keys() & base.keys()):
        fingerprints = {fingerprint_of(g.runs[seed]) for g in (group, other)} - {None}
        if len(fingerprints) > 1:
            refused.append(seed)
        else:
            pairs[seed] = (own[seed], base[seed])
    return Match(other, pairs, tuple(refused))


def _distance(group: Group, other: Group) -> int:
    """Return the number of shared config keys with different values."""
    shared = group.settings.keys() & other.settings.keys()
    return sum(group.settings[key] != other.settings[key] for key in shared)


def _refused_notes(label: str, baseline: str, seeds: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(
        f"{label} and {baseline} are not paired for seed {seed}: their data fingerprints differ."
        for seed in seeds
    )


def _unpaired(label: str, name: str, matches: list[Match]) -> Comparison:
    baseline = BASELINES.get(name, name)
    refused = tuple(seed for match in matches for seed in match.refused)
    missing = "on the same data files" if refused else "with the same data and seed"
    sentence = f"{label}: no {baseline} run {missing}, so the gain is unknown."
    return Comparison(None, (), None, "no pairs", sentence)


def _verdict(
    label: str,
    reference: str,
    interval: Interval,
    paired: Interval | None = None,
    measure: Measure = ACCURACY,
) -> tuple[str, str]:
    """Return the verdict and its text, without the full stop."""
    gain = _gain(label, reference, interval.mean, "", measure)
    if paired is not None and paired.low is not None and paired.high is not None:
        samples = f"{paired.n} test samples, 95 % interval {span_text(paired)}"
        rest = "with one seed; the spread over seeds is unknown"
        if paired.low > 0 or paired.high < 0:
            return ("helped" if paired.low > 0 else "hurt"), f"{gain} ({samples}) {rest}"
        return "no clear difference", (
            f"{label}: no clear difference from {reference} ({points(paired.mean)} points on "
            f"{samples}) {rest}"
        )
    if interval.n == 1:
        return "one seed", f"{gain} with one seed; the spread over seeds is unknown"
    if interval.low is None or interval.high is None:
        return "no spread", (
            f"{gain} with each of {seeds_text(interval.n, True)}; identical differences give no "
            "estimate of the spread"
        )
    half = f" ± {measure.spread((interval.high - interval.low) / 2)}"
    span = f"95 % interval, {seeds_text(interval.n, True)}"
    if interval.low > 0 or interval.high < 0:
        gain = _gain(label, reference, interval.mean, half, measure)
        return ("helped" if measure.better(interval.mean) else "hurt"), f"{gain} ({span})"
    unit = measure.label if measure.lower_is_better else "points"
    return "no clear difference", (
        f"{label}: no clear difference from {reference} "
        f"({measure.difference(interval.mean)}{half} {unit}, {span})"
    )


def span_text(interval: Interval) -> str:
    """Return the ends of an interval in points.

    >>> span_text(Interval(0.05, None, -0.078, 0.173, 20))
    '-7.8 to +17.3'
    """
    assert interval.low is not None
    assert interval.high is not None
    return f"{points(interval.low)} to {points(interval.high)}"


def _gain(label: str, reference: str, mean: float, half: str, measure: Measure = ACCURACY) -> str:
    """Return a difference as text, with half the width of its interval.

    >>> _gain("dann", "source-only", -0.01, "")
    'dann is 1.0 points worse than source-only'
    >>> from tl_lightning.reporting.measure import MEASURES
    >>> _gain("dann", "source-only", -0.25, "", MEASURES["mae"])
    'dann has a mean absolute error 0.25 lower than source-only'
    """
    if measure.lower_is_better and mean:
        side = "lower" if mean < 0 else "higher"
        return f"{label} has a {measure.label} {abs(mean):.3g}{half} {side} than {reference}"
    if measure.difference(mean) in ("+0.0", "-0.0", "+0"):
        return f"{label} performs the same as {reference}"
    comparative = "better" if mean > 0 else "worse"
    return f"{label} is {abs(100 * mean):.1f}{half} points {comparative} than {reference}"
