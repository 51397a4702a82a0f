"""Rules that say what to try first on a source and an unlabelled target.

The first rule that applies is followed. All of them use what can be measured without training and
without target labels, see :class:`Findings`. How often their advice is within 2 points of the best
model is measured in docs/measurements.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["RULES", "Findings", "Rule", "first_rule"]

#: Proxy A-distance, between 0 and 2, below which the domains look alike to the network.
ALIKE = 0.5
#: Side in pixels up to which images count as small.
SMALL_SIDE = 64
#: Labelled training images per class below which a trained head is less accurate than a probe.
FEW_PER_CLASS = 20


@dataclass(frozen=True)
class Findings:
    """What was measured of the data, on the features of a pretrained network.

    Attributes:
        backbone: Name of the network.
        classes: Number of classes.
        per_class: Labelled training images per class: least, median and most.
        images: Training images by domain.
        side: Median of the shorter side of the images in pixels.
        overlap: Note that the network has seen the images when it was pretrained, or empty.
        source_val: Accuracy of the linear probe on source validation.
        small_val: The same of a small network trained on the source, or None if it was not trained.
        a_distance: Proxy A-distance of the domains, between 0 and 2.
        mix_distance: Total variation between the class frequencies of the source and those
            estimated for the target.
        scores: The score ``cbnm`` on the target by model: ``frozen probe``, and the same probe with
            ``relative_bn`` or ``align``.
        agreement: Fraction of target images that a model predicts the same class for as the frozen
            probe.
    """

    backbone: str
    classes: int
    per_class: tuple[int, int, int]
    images: Mapping[str, int]
    side: int
    overlap: str
    source_val: float
    small_val: float | None
    a_distance: float
    mix_distance: float
    scores: Mapping[str, float]
    agreement: Mapping[str, float]

    @property
    def best_score(self) -> str:
        """Name of the model without training that has the highest score on the target."""
        return max(self.scores, key=self.scores.__getitem__)


@dataclass(frozen=True)
class Rule:
    """A rule, with its reason and the measurements that it rests on.

    Attributes:
        name: Short name.
        applies: Whether it applies.
        overrides: Settings of the advised run.
        reason: Returns why, with the measured values.
        evidence: What was measured on our data, see docs/measurements.md.
    """

    name: str
    applies: Callable[[Findings], bool]
    overrides: tuple[str, ...]
    reason: Callable[[Findings], str]
    evidence: str


def _from_scratch(found: Findings) -> bool:
    small = found.small_val
    return found.side <= SMALL_SIDE and small is not None and small > found.source_val


def _few(found: Findings) -> bool:
    median = found.per_class[1]
    return median < FEW_PER_CLASS and found.best_score != "frozen probe"


def _scores(found: Findings) -> str:
    changes = [
        f"{name} {score - found.scores['frozen probe']:+.3f}"
        for name, score in found.scores.items()
        if name != "frozen probe"
    ]
    return f"the score cbnm of the unlabelled target changes by {', '.join(changes)}"


#: The rules, in the order in which they are tried.
RULES = (
    Rule(
        "from scratch",
        _from_scratch,
        ("model=dann",),
        lambda found: (
            f"the images are small ({found.side} pixels), and a small network trained on the "
            f"source reaches {100 * (found.small_val or 0):.1f} % on source validation, the probe "
            f"on {found.backbone} only {100 * found.source_val:.1f} %: features of photographs do "
            "not suit them"
        ),
        "digits: a small network with DANN 88.6 %, without adaptation 76.2 %; MNIST to MNIST-M: "
        "86.4 % and 61.5 %",
    ),
    Rule(
        "alike",
        lambda found: found.a_distance < ALIKE,
        ("model=feature_extraction", "data.augment=none"),
        lambda found: (
            f"the domains look alike to {found.backbone}: their A-distance is "
            f"{found.a_distance:.2f} (0: the same, 2: always told apart), so that there is little "
            "to adapt"
        ),
        "two halves of CIFAR-10 without a shift: A-distance 0.02; eight pairs of Dogs, PACS and "
        "CIFAR-10 with one: 1.7 to 2.0",
    ),
    Rule(
        "few images per class",
        _few,
        ("model=align",),
        lambda found: (
            f"there are only {found.per_class[1]} labelled images per class (median), too few to "
            f"train a head on, and {_scores(found)}"
        ),
        "Dogs, 11 images per class: the probe with relative_bn 70.0 %, heads 50.3 to 65.9 %",
    ),
    Rule(
        "pretrained",
        lambda found: True,
        ("model=auto",),
        lambda found: (
            f"the domains differ (A-distance {found.a_distance:.2f}), and {_scores(found)}; with "
            f"{found.per_class[1]} labelled images per class (median), trained heads are worth a "
            "comparison"
        ),
        "over eight pairs of Dogs, PACS and CIFAR-10, model=auto was the best of five models or "
        "within 2 points of it on seven, and 2.2 points below it on the other",
    ),
)


def first_rule(found: Findings) -> Rule:
    """Return the first rule that applies; the last one always does."""
    return next(rule for rule in RULES if rule.applies(found))
