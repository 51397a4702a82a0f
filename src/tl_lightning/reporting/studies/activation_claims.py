"""Verdicts on claims about activation functions, from paired differences over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from tl_lightning.reporting.formatting import seeds_text
from tl_lightning.reporting.statistics import Interval, student

__all__ = ["CLAIMS", "Claim", "Finding", "findings", "paragraph"]


class Measured(Protocol):
    """Attributes of a run that claims are evaluated on."""

    @property
    def part(self) -> str:
        """The study's part."""
        ...

    @property
    def activation(self) -> str:
        """The activation under study."""
        ...

    @property
    def seed(self) -> int:
        """The run's seed."""
        ...

    @property
    def figures(self) -> dict[str, float]:
        """Measured values by name."""
        ...


class Claim(NamedTuple):
    """A claim that one activation is better than another in one measured value.

    Attributes:
        text: The claim as text.
        first: The activation that is claimed to be better.
        second: The other activation.
        figure: Name of the measured value.
        sign: 1 if higher is better, -1 if lower is.
        adapted: Whether the claim is about runs that adapt to a target.
    """

    text: str
    first: str
    second: str
    figure: str
    sign: int
    adapted: bool = False


CLAIMS = (
    Claim("tanh converges in fewer epochs than relu", "tanh", "relu", "epochs", -1),
    Claim("tanh is more accurate on test data than relu", "tanh", "relu", "test", 1),
    Claim("tanh converges in fewer epochs than sigmoid", "tanh", "sigmoid", "epochs", -1),
    Claim("tanh is more accurate on test data than sigmoid", "tanh", "sigmoid", "test", 1),
    Claim("under DANN tanh gives a better target accuracy than relu", "tanh", "relu", "target", 1,
          adapted=True),
    Claim("under DANN tanh gives a smaller A-distance than relu", "tanh", "relu", "a_distance", -1,
          adapted=True),
)  # fmt: skip

#: Scale, format and unit of a difference, by name of the measured value.
UNITS = {
    "epochs": (1.0, "+.1f", "epochs"),
    "test": (100.0, "+.1f", "points"),
    "target": (100.0, "+.1f", "points"),
    "a_distance": (1.0, "+.2f", "in distance"),
}


class Finding(NamedTuple):
    """The result of a claim in one part of the study.

    Attributes:
        claim: The claim.
        part: Name of the part.
        interval: Mean and interval of the paired differences, first minus second.
        verdict: ``held``, ``did not hold`` (the opposite was found), ``no clear difference``, or
            ``no interval`` (one seed, or the same difference in every seed).
        sentence: The result as text.
    """

    claim: Claim
    part: str
    interval: Interval
    verdict: str
    sentence: str

    def mean(self) -> str:
        """Return the mean difference with its unit."""
        scale, spec, unit = UNITS[self.claim.figure]
        return f"{_number(scale * self.interval.mean, spec)} {unit}"

    def span(self) -> str:
        """Return the ends of the interval, or an empty string if there is none."""
        scale, spec, _ = UNITS[self.claim.figure]
        low, high = self.interval.low, self.interval.high
        if low is None or high is None:
            return ""
        return f"{_number(scale * low, spec)} to {_number(scale * high, spec)}"


def _number(value: float, spec: str) -> str:
    return f"{value:{spec}}".replace("-", "\N{MINUS SIGN}")


def findings(runs: Sequence[Measured]) -> list[Finding]:
    """Return a finding for each claim and part with at least one pair of runs of the same seed."""
    results = []
    for claim in CLAIMS:
        for part in dict.fromkeys(run.part for run in runs):
            matching = [run for run in runs if run.part == part and claim.figure in run.figures]
            if matching and claim.adapted == all("a_distance" in run.figures for run in matching):
                pairs = _pairs(matching, claim)
                results += [_judge(claim, part, student(pairs))] if pairs else []
    return results


def _pairs(runs: Sequence[Measured], claim: Claim) -> list[float]:
    by_name = {
        name: {run.seed: run.figures[claim.figure] for run in runs if run.activation == name}
        for name in (claim.first, claim.second)
    }
    first, second = by_name[claim.first], by_name[claim.second]
    return [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]


def _judge(claim: Claim, part: str, interval: Interval) -> Finding:
    verdict, reason = "no clear difference", ""
    if interval.low is None or interval.high is None:
        if interval.n == 1 or interval.mean:
            verdict = "no interval"
        single = interval.n == 1
        reason = "; the spread over seeds is unknown" if single else "; the same for every seed"
    else:
        ends = sorted(claim.sign * end for end in (interval.low, interval.high))
        if ends[0] > 0:
            verdict = "held"
        elif ends[1] < 0:
            verdict = "did not hold"
    finding = Finding(claim, part, interval, verdict, "")
    span = f", 95 % interval {finding.span()}" if finding.span() else ""
    difference = f"{finding.mean()}{span}, {seeds_text(interval.n, True)}{reason}"
    sentence = f"{claim.text}, {part}: {claim.first} minus {claim.second} {difference}"
    return finding._replace(sentence=sentence)


def paragraph(found: Sequence[Finding]) -> str:
    """Return a one-paragraph summary of the findings.

    >>> paragraph([])
    'No claim can be evaluated: no two of its activations were run with the same seed.'
    """
    if not found:
        return "No claim can be evaluated: no two of its activations were run with the same seed."
    sentences = []
    for claim in dict.fromkeys(item.claim for item in found):
        by_verdict: dict[str, list[str]] = {}
        for item in found:
            if item.claim == claim:
                by_verdict.setdefault(item.verdict, []).append(_short(item))
        results = "; ".join(f"{key} in {', '.join(texts)}" for key, texts in by_verdict.items())
        sentences.append(f"“{claim.text[0].upper()}{claim.text[1:]}”: {results}.")
    seeds = sorted({item.interval.n for item in found})
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    sentences.append(
        f"All results are from {count} seed{'s' if seeds[-1] > 1 else ''} per comparison and apply "
        "to these tasks and settings only."
    )
    return " ".join(sentences)


def _short(item: Finding) -> str:
    ends = f", {item.span()}" if item.span() else ""
    return f"{item.part} ({item.mean()}{ends})"
