"""Whether a claim about activations held, by paired differences over seeds and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from tl_lightning.reporting.formatting import seeds_text
from tl_lightning.reporting.statistics import Interval, student

__all__ = ["CLAIMS", "Claim", "Finding", "findings", "paragraph"]


class Measured(Protocol):
    """What a claim needs of a run."""

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
        """What was measured."""
        ...


class Claim(NamedTuple):
    """One activation against another in one figure.

    Attributes:
        words: The claim as a sentence has it.
        first: The activation that is said to do better.
        second: The other.
        figure: Name of the measured figure.
        sign: 1 where more is better, -1 where less is.
        adapted: Whether it is about runs that adapt to a target, or about the others.
    """

    words: str
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

#: Figure to the factor on it, the form and the unit of a difference.
UNITS = {
    "epochs": (1.0, "+.1f", "epochs"),
    "test": (100.0, "+.1f", "points"),
    "target": (100.0, "+.1f", "points"),
    "a_distance": (1.0, "+.2f", "in distance"),
}


class Finding(NamedTuple):
    """A claim in one part.

    Attributes:
        claim: What was claimed.
        part: Where it was looked at.
        interval: Of the paired differences, first minus second.
        verdict: ``held``, ``did not hold`` (the opposite was found), ``no clear difference``, or
            ``no interval`` (one seed, or the same difference in every seed).
        sentence: All of it for a reader.
    """

    claim: Claim
    part: str
    interval: Interval
    verdict: str
    sentence: str

    def mean(self) -> str:
        """Return the mean difference with its unit."""
        scale, form, unit = UNITS[self.claim.figure]
        return f"{_number(scale * self.interval.mean, form)} {unit}"

    def span(self) -> str:
        """Return the interval's ends, or nothing where there is none."""
        scale, form, _ = UNITS[self.claim.figure]
        low, high = self.interval.low, self.interval.high
        if low is None or high is None:
            return ""
        return f"{_number(scale * low, form)} to {_number(scale * high, form)}"


def _number(value: float, form: str) -> str:
    return f"{value:{form}}".replace("-", "\N{MINUS SIGN}")


def findings(runs: Sequence[Measured]) -> list[Finding]:
    """Return every claim in every part that has pairs for it: two runs of one seed."""
    found = []
    for claim in CLAIMS:
        for part in dict.fromkeys(run.part for run in runs):
            own = [run for run in runs if run.part == part and claim.figure in run.figures]
            if own and claim.adapted == all("a_distance" in run.figures for run in own):
                pairs = _pairs(own, claim)
                found += [_judge(claim, part, student(pairs))] if pairs else []
    return found


def _pairs(runs: Sequence[Measured], claim: Claim) -> list[float]:
    by_name = {
        name: {run.seed: run.figures[claim.figure] for run in runs if run.activation == name}
        for name in (claim.first, claim.second)
    }
    first, second = by_name[claim.first], by_name[claim.second]
    return [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]


def _judge(claim: Claim, part: str, interval: Interval) -> Finding:
    verdict, why = "no clear difference", ""
    if interval.low is None or interval.high is None:
        if interval.n == 1 or interval.mean:
            verdict = "no interval"
        alone = interval.n == 1
        why = ": one seed says nothing about spread" if alone else ": the same in every seed"
    else:
        ends = sorted(claim.sign * end for end in (interval.low, interval.high))
        if ends[0] > 0:
            verdict = "held"
        elif ends[1] < 0:
            verdict = "did not hold"
    found = Finding(claim, part, interval, verdict, "")
    span = f", 95 % interval {found.span()}" if found.span() else ""
    words = f"{found.mean()}{span}, {seeds_text(interval.n, True)}{why}"
    sentence = f"{claim.words}, {part}: {claim.first} minus {claim.second} {words}"
    return found._replace(sentence=sentence)


def paragraph(found: Sequence[Finding]) -> str:
    """Return one paragraph on all claims; it says nothing that the findings do not.

    >>> paragraph([])
    'No two activations of a claim were run with one seed, so nothing can be said.'
    """
    if not found:
        return "No two activations of a claim were run with one seed, so nothing can be said."
    sentences = []
    for claim in dict.fromkeys(item.claim for item in found):
        own = [item for item in found if item.claim == claim]
        verdicts = dict.fromkeys(item.verdict for item in own)
        told = "; ".join(
            f"{verdict} in " + ", ".join(_short(item) for item in own if item.verdict == verdict)
            for verdict in verdicts
        )
        sentences.append(f"“{claim.words[0].upper()}{claim.words[1:]}”: {told}.")
    seeds = sorted({item.interval.n for item in found})
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    sentences.append(
        f"All of it from {count} seed{'s' if seeds[-1] > 1 else ''} a comparison, on these tasks "
        "and with these settings only."
    )
    return " ".join(sentences)


def _short(item: Finding) -> str:
    ends = f", {item.span()}" if item.span() else ""
    return f"{item.part} ({item.mean()}{ends})"
