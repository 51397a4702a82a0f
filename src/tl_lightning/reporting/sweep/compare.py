"""Holding one configuration against a baseline: pairs of one seed and one data, and a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tl_lightning.reporting.formatting import (
    BASELINES,
    points,
    seeds_text,
    taught_by_target,
    uses_target_labels,
)
from tl_lightning.reporting.statistics import Interval, student

__all__ = ["Comparison", "Group", "compare"]

Key = tuple[str, str, str]
Pairs = dict[int, tuple[float, float]]


@dataclass(frozen=True)
class Group:
    """Runs of one configuration.

    Attributes:
        key: (name, data, group).
        runs: Seed to report.
        config: Dotted keys of the configuration.
    """

    key: Key
    runs: dict[int, Mapping[str, Any]]
    config: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the model preset."""
        return self.key[0]

    def accuracies(self, domain: str) -> dict[int, float]:
        """Return seed to test accuracy, where a run has one."""
        found = {
            seed: (run.get("metrics") or {}).get(f"{domain}/test/acc")
            for seed, run in sorted(self.runs.items())
        }
        return {seed: float(v) for seed, v in found.items() if isinstance(v, (int, float))}


@dataclass(frozen=True)
class Comparison:
    """A method held against one baseline.

    Attributes:
        baseline: Label of the baseline's row; None when there was none to pair with.
        seeds: The paired seeds.
        interval: Difference of target accuracy (method minus baseline) with its interval.
        verdict: ``helped``, ``hurt``, ``no clear difference``, ``one seed``, ``no spread`` or
            ``no pairs``.
        sentence: The verdict for a reader.
        notes: Pairs that were left out, and why.
    """

    baseline: str | None
    seeds: tuple[int, ...]
    interval: Interval | None
    verdict: str
    sentence: str
    notes: tuple[str, ...] = ()


class Match(NamedTuple):
    """A baseline and the seeds it shares with a method, on the same data."""

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
) -> Comparison:
    """Return the paired difference in test accuracy of ``group`` to its nearest baseline.

    Of several baselines that of the same data is taken whose configuration differs in the fewest
    keys, then the one with the most seeds in common.

    Args:
        group: The method.
        candidates: Groups of the baseline's name.
        name: ``source_only`` or ``joint_bn``, or the words for another baseline.
        labels: Group key to label.
        bound: Whether target labels chose the method's models.
        domain: Whose test accuracy is compared.
    """
    same = [other for other in candidates if other.key[1] == group.key[1]]
    matches = [_match(group, other, domain) for other in same]
    usable = [match for match in matches if match.pairs]
    if not usable:
        return _unpaired(labels[group.key], name, matches)
    best = min(usable, key=lambda match: (_distance(group, match.group), -len(match.pairs)))
    interval = student([own - base for own, base in best.pairs.values()])
    against = BASELINES.get(name, name) if len(same) == 1 else labels[best.group.key]
    verdict, sentence = _verdict(labels[group.key], against, interval)
    if any(taught_by_target(run) for run in group.runs.values()):
        sentence += "; it learned from target labels, so an upper bound"
    elif bound:
        sentence += "; chosen with target labels, so an upper bound"
    elif any(uses_target_labels(run) for run in best.group.runs.values()):
        sentence += "; the baseline was chosen with target labels, which flatters it"
    baseline = labels[best.group.key]
    notes = _refusals(labels[group.key], baseline, best.refused)
    return Comparison(baseline, tuple(best.pairs), interval, verdict, sentence + ".", notes)


def _match(group: Group, other: Group, domain: str) -> Match:
    """Return the seeds that both have a figure for, apart from those on different data."""
    own, base = group.accuracies(domain), other.accuracies(domain)
    pairs, refused = {}, []
    for seed in sorted(own.keys() & base.keys()):
        prints = {_fingerprint(run.runs[seed]) for run in (group, other)} - {None}
        if len(prints) > 1:
            refused.append(seed)
        else:
            pairs[seed] = (own[seed], base[seed])
    return Match(other, pairs, tuple(refused))


def _fingerprint(run: Mapping[str, Any]) -> Any:
    return (run.get("dataset") or {}).get("fingerprint")


def _distance(group: Group, other: Group) -> int:
    """Return in how many keys that both have two configurations differ."""
    shared = group.config.keys() & other.config.keys()
    return sum(group.config[key] != other.config[key] for key in shared)


def _refusals(label: str, baseline: str, seeds: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(
        f"{label} and {baseline} are not paired at seed {seed}: their data fingerprints differ."
        for seed in seeds
    )


def _unpaired(label: str, name: str, matches: list[Match]) -> Comparison:
    word = BASELINES.get(name, name)
    refused = tuple(seed for match in matches for seed in match.refused)
    why = "on the same data files" if refused else "with the same data and seed"
    sentence = f"{label}: no {word} run {why}, so nothing can be said of a gain."
    return Comparison(None, (), None, "no pairs", sentence)


def _verdict(label: str, against: str, interval: Interval) -> tuple[str, str]:
    """Return the verdict and its sentence, without the full stop."""
    gain = _gain(label, against, interval.mean, "")
    if interval.n == 1:
        return "one seed", f"{gain} in one seed; one seed says nothing about spread"
    if interval.low is None or interval.high is None:
        return "no spread", (
            f"{gain} in each of {seeds_text(interval.n, True)}, the same every time; seeds that "
            "change nothing say nothing about spread"
        )
    half = f" ± {50 * (interval.high - interval.low):.1f}"
    span = f"95 % interval, {seeds_text(interval.n, True)}"
    if interval.low > 0 or interval.high < 0:
        gain = _gain(label, against, interval.mean, half)
        return ("helped" if interval.low > 0 else "hurt"), f"{gain} ({span})"
    return "no clear difference", (
        f"{label}: no clear difference to {against} ({points(interval.mean)}{half} points, {span})"
    )


def _gain(label: str, against: str, mean: float, half: str) -> str:
    """Say a difference, with half of its interval's width.

    >>> _gain("dann", "source-only", -0.01, "")
    'dann hurt by 1.0 points against source-only'
    """
    if points(mean) in ("+0.0", "-0.0"):
        return f"{label} made no difference to {against}"
    word, to = ("helped", "over") if mean > 0 else ("hurt", "against")
    return f"{label} {word} by {abs(100 * mean):.1f}{half} points {to} {against}"
