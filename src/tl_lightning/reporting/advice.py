"""What to try first on a source and an unlabelled target, in plain words."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tl_lightning.reliability.accuracy import Estimate
from tl_lightning.reporting.formatting import duration, percent
from tl_lightning.selection.advice import Findings, Rule

__all__ = ["Advice", "advice_text", "as_plain"]

#: Columns of the text.
WIDTH = 96
#: Total variation of the class frequencies above which they are mentioned.
OTHER_CLASSES = 0.2
#: A-distance above which the estimated class frequencies say little.
SIMILAR = 1.0


@dataclass(frozen=True)
class Advice:
    """What to try first.

    Attributes:
        found: What was measured.
        rule: The rule that applies.
        estimates: Estimated target accuracy by model without training.
        speed: Images per second through the network.
        seconds: How long the advised run takes, roughly.
        plan: What these seconds consist of.
    """

    found: Findings
    rule: Rule
    estimates: Mapping[str, Estimate]
    speed: float
    seconds: float
    plan: str

    @property
    def expected(self) -> str:
        """Name of the model without training whose estimate says what to expect; empty if none."""
        if self.rule.name == "from scratch":
            return ""
        return "frozen probe" if self.rule.name == "alike" else self.found.best_score


def advice_text(advice: Advice, title: str, command: str) -> str:
    """Return the advice for the terminal.

    Args:
        advice: What to try first.
        title: Names of the data.
        command: The command to run.
    """
    lines = [title, *_measured(advice.found)]
    for heading, text in _paragraphs(advice):
        lines.append(textwrap.fill(f"{heading}: {text}.", WIDTH, subsequent_indent="  "))
    return "\n".join([*lines, "Command:", f"  {command}"])


def _measured(found: Findings) -> Iterator[str]:
    """Yield what was measured, one line each."""
    images = " and ".join(f"{count:,} of the {name}" for name, count in found.images.items())
    low, median, high = found.per_class
    yield f"  training images       {images}, shorter side {found.side} pixels (median)"
    yield (
        f"  classes               {found.classes}, with {low} / {median} / {high} labelled images "
        "(least / median / most)"
    )
    yield f"  A-distance            {found.a_distance:.2f} on {found.backbone} (0 to 2)"
    yield f"  probe, source         {percent(found.source_val)} on validation"
    if found.small_val is not None:
        yield f"  small network, source {percent(found.small_val)} on validation"
    for name, score in found.scores.items():
        agreement = found.agreement[name]
        same = "" if name == "frozen probe" else f", {percent(agreement)} of predictions unchanged"
        yield f"  {name:<21} cbnm {score:.3f} on the target{same}"
    mix = percent(found.mix_distance)
    reliable = "" if _mix_is_reliable(found) else ", not reliable as the domains differ"
    yield f"  class frequencies     differ by {mix} (total variation, estimated{reliable})"
    if found.overlap:
        yield f"  {found.overlap}"


def _paragraphs(advice: Advice) -> Iterator[tuple[str, str]]:
    """Yield the parts of the advice."""
    yield "Try first", " ".join(advice.rule.overrides)
    yield "Because", advice.rule.reason(advice.found)
    yield "Measured on our data", advice.rule.evidence
    yield "Expect", _expected(advice)
    if advice.found.mix_distance > OTHER_CLASSES and _mix_is_reliable(advice.found):
        yield (
            "Note",
            (
                "the classes seem to have other frequencies in the target, which methods that "
                "align the domains do not expect; compare with data.sampling=class_balanced "
                "data.target_sampling=pseudo_balanced"
            ),
        )
    yield "Takes", f"about {duration(advice.seconds)}: {advice.plan}"


def _mix_is_reliable(found: Findings) -> bool:
    """Return whether only the class frequencies may differ, as their estimate assumes."""
    return found.a_distance < SIMILAR


def _expected(advice: Advice) -> str:
    name = advice.expected
    if not name:
        return (
            "no estimate before training, as the network is trained from scratch; the report of "
            "the run has one"
        )
    one = advice.estimates[name]
    text = (
        f"about {percent(one.value)} on the target (between {percent(one.low)} and "
        f"{percent(one.high)}), estimated without labels for {_named(name)}"
    )
    if advice.rule.name == "pretrained":
        text += ", which model=auto replaces by a trained head only if that has a higher score"
    return "; ".join([text, *one.warnings])


def _named(name: str) -> str:
    return "the frozen probe" if name == "frozen probe" else f"the probe with {name}"


def as_plain(advice: Advice, command: str) -> dict[str, Any]:
    """Return the advice as JSON-serializable values."""
    return {
        "schema": 1,
        "rule": advice.rule.name,
        "overrides": list(advice.rule.overrides),
        "command": command,
        "reason": advice.rule.reason(advice.found),
        "evidence": advice.rule.evidence,
        "found": asdict(advice.found),
        "expected": advice.expected or None,
        "estimates": {
            name: {"value": one.value, "low": one.low, "high": one.high}
            for name, one in advice.estimates.items()
        },
        "images_per_second": advice.speed,
        "seconds": advice.seconds,
    }
