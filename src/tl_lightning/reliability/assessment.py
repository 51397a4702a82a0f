"""What can be said of predictions without labels, from the outputs stored with the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tl_lightning.errors import ConfigError, DataError
from tl_lightning.reliability.accuracy import Estimate, estimate_accuracy
from tl_lightning.reliability.calibration import confidences, matched_temperature, threshold_for
from tl_lightning.reliability.label_shift import ClassMix, class_mix
from tl_lightning.reliability.novelty import neighbour_distance, shares_below
from tl_lightning.utils.probabilities import temperature

__all__ = ["Assessment", "Record", "assess", "expected_accuracy", "finite_temperature"]

Array = NDArray[Any]

#: Fewest samples whose mean confidence is matched to their estimated accuracy.
MATCHED = 50
NOT_STORED = (
    "the checkpoint has no outputs on source validation, because it is not the selected one of "
    "its run (set checkpoint=<run folder>), is of an earlier version, was published without them, "
    "or was trained with test=false or without validation"
)


@dataclass(frozen=True)
class Record:
    """Outputs of a model on source validation, as its checkpoint stores them.

    Attributes:
        logits: float64 ``(n, K)``.
        labels: ``(n,)``.
        features: ``(m, D)`` of some of these samples.
        temperature: Calibrates the logits; NaN if none is finite.
        target_temperature: The same for the target of the run, without its labels; None without.
        adapted: Whether the model was trained on target samples.
    """

    logits: Array
    labels: Array
    features: Array
    temperature: float
    target_temperature: float | None = None
    adapted: bool = False

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Record | None:
        """Return the record in a checkpoint's entry ``reliability``; None if it has no outputs."""
        if "logits" not in stored:
            return None
        logits, labels, features = (
            np.asarray(stored[name], dtype=kind)
            for name, kind in (
                ("logits", np.float64), ("labels", np.int64), ("features", np.float32),
            )
        )  # fmt: skip
        return cls(
            logits,
            labels,
            features,
            stored["temperature"],
            stored.get("target_temperature"),
            bool(stored.get("adapted")),
        )

    @cached_property
    def finite(self) -> Array:
        """Which rows are finite, ``(n,)``."""
        found: Array = np.all(np.isfinite(self.logits), axis=1)
        return found

    def threshold(self, precision: float) -> float:
        """Return the confidence from which a precision is assured on source validation.

        Confidences are those after calibration.

        Raises:
            ConfigError: If it is not in (0, 1), or not assured from any confidence.
        """
        if not 0 < precision < 1:
            raise ConfigError(
                f"precision={precision:g} is not a fraction between 0 and 1; set precision=0.95"
            )
        logits, labels = self.logits[self.finite], self.labels[self.finite]
        found = None
        if len(logits):
            correct = logits.argmax(axis=1) == labels
            found = threshold_for(confidences(logits, self.temperature), correct, precision)
        if found is None:
            raise ConfigError(
                f"precision={precision:g} cannot be assured: from no confidence on are the "
                f"predictions of the {len(logits):,} source validation samples right that often "
                "with 95 % certainty; set a lower precision, or train with more validation samples"
            )
        return found

    def novelty(self, features: Array) -> Array:
        """Return the fraction of source validation that is more familiar than each row, ``(N,)``.

        The distance to the nearest source validation sample is compared with the distances
        of these samples among themselves. Rows that are not finite have 1.
        """
        known, within = self._familiar
        share = np.ones(len(features))
        finite = np.isfinite(features).all(axis=1)
        if len(known) > 1:
            share[finite] = shares_below(neighbour_distance(features[finite], known), within)
        return share

    @cached_property
    def _familiar(self) -> tuple[Array, Array]:
        """Finite features, and the distance of each to the nearest of the others."""
        known = self.features[np.isfinite(self.features).all(axis=1)]
        return known, neighbour_distance(known, known, own=True) if len(known) > 1 else np.zeros(0)


def finite_temperature(logits: Array, labels: Array) -> float:
    """Return the temperature that calibrates the finite rows; NaN if there are none."""
    finite = np.isfinite(logits).all(axis=1)
    return temperature(logits[finite], labels[finite]) if finite.any() else float("nan")


@dataclass(frozen=True)
class Assessment:
    """What can be said of predictions without their labels.

    Attributes:
        estimate: The accuracy to expect; None if it cannot be estimated.
        mix: The class frequencies of both domains; None likewise.
        temperature: What the logits are divided by; 1 if it is not known.
        calibrated: Where the temperature is from, in words; empty if it is not known.
        problem: Why the accuracy cannot be estimated.
    """

    estimate: Estimate | None = None
    mix: ClassMix | None = None
    temperature: float = 1.0
    calibrated: str = ""
    problem: str | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings of the estimate and of the class frequencies."""
        found = () if self.estimate is None else self.estimate.warnings
        mix = () if self.mix is None or self.mix.warning is None else (self.mix.warning,)
        return (*found, *mix)


def assess(
    record: Record | None,
    target_logits: Array,
    reuse: bool = True,
    other_logits: Array | Sequence[Array] | None = None,
) -> Assessment:
    """Estimate accuracy, class frequencies and temperature of target samples, without labels.

    The temperature is the one at which the mean confidence of the samples equals their estimated
    accuracy, but not below that of the source; of fewer than 50 samples, that of the run's target,
    or of the source.

    Args:
        record: Stored with the model; None in checkpoints without.
        target_logits: ``(m, K)``.
        reuse: Whether to use the temperature of the run's target for a few samples.
        other_logits: Of other models on the same samples, see :func:`.estimate_accuracy`.
    """
    if record is None:
        return Assessment(problem=NOT_STORED)
    logits = np.asarray(target_logits, dtype=np.float64)
    stored = record.target_temperature if reuse else None
    scale, origin = record.temperature, "source validation"
    if stored is not None and np.isfinite(stored):
        scale, origin = stored, "the target of the run, without labels"
    if not np.isfinite(scale):
        scale, origin = 1.0, ""
    try:
        estimate = estimate_accuracy(
            record.logits,
            record.labels,
            logits,
            adapted=record.adapted,
            other_logits=other_logits,
        )
        mix = class_mix(record.logits, record.labels, logits)
    except DataError as error:
        return Assessment(None, None, scale, origin, str(error))
    finite = logits[np.isfinite(logits).all(axis=1)]
    if len(finite) >= MATCHED:
        # In the estimate, rows that are not finite count as wrong.
        matched = matched_temperature(finite, min(1.0, estimate.value * len(logits) / len(finite)))
        scale = max(matched, record.temperature) if np.isfinite(record.temperature) else matched
        origin = "these samples, without labels"
    return Assessment(estimate, mix, scale, origin)


def expected_accuracy(found: Assessment, samples: str) -> list[str]:
    """Return the expected accuracy as a line, followed by one line per warning.

    Args:
        found: The assessment.
        samples: What they are, such as ``these images``.

    >>> expected_accuracy(Assessment(problem="the model has diverged"), "these texts")
    ['expected accuracy on these texts: not available: the model has diverged']
    """
    start = f"expected accuracy on {samples}: "
    if found.estimate is None:
        return [f"{start}not available: {found.problem}"]
    value, low, high = (
        100 * x for x in (found.estimate.value, found.estimate.low, found.estimate.high)
    )
    line = f"{start}{value:.0f} % ({low:.0f} to {high:.0f} %), estimated without labels"
    return [line, *(f"warning: {text}" for text in found.warnings)]
