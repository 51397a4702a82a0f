"""Comparison of an exported model with its checkpoint: outputs, accuracy and speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tl_lightning.errors import CheckpointError
from tl_lightning.inference.predictor import Predictor

__all__ = ["Agreement", "Runner", "check_loss", "check_parity", "compare", "ratio_of_times"]

Array = NDArray[Any]
#: Maps a batch of inputs to the outputs by name.
Runner = Callable[[Array], Mapping[str, Array]]

#: Largest difference of a probability in float32.
TOLERANCE = 1e-4
#: Largest difference of a logit or feature in float32, as a fraction of the standard deviation.
RELATIVE = 1e-2
#: Default bounds of a reduced precision: loss of accuracy on labelled samples, and share of other
#: predicted classes on unlabelled ones, which is never less than the loss of accuracy.
LOST, CHANGED = 0.02, 0.05


@dataclass(frozen=True)
class Agreement:
    """How an exported model agrees with its checkpoint on some samples.

    Attributes:
        count: Number of samples.
        max_difference: Largest difference of a probability.
        mean_difference: Mean difference of the probabilities of the predicted class.
        max_outputs: Largest difference of a logit or feature, as a fraction of the standard
            deviation of all logits or features. It shows what nearly equal probabilities hide.
        same_class: Fraction with the same predicted class.
        accuracy: Accuracy of the checkpoint and of the exported model; None without labels.
    """

    count: int
    max_difference: float
    mean_difference: float
    max_outputs: float
    same_class: float
    accuracy: tuple[float, float] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        found = {
            "samples": self.count, "max_difference_of_probabilities": self.max_difference,
            "mean_difference_of_top_probability": self.mean_difference,
            "max_relative_difference_of_outputs": self.max_outputs,
            "same_class": self.same_class,
        }  # fmt: skip
        if self.accuracy is not None:
            found |= {
                "accuracy_of_checkpoint": self.accuracy[0],
                "accuracy_of_export": self.accuracy[1],
            }
        return found


def compare(
    predictor: Predictor,
    run: Runner,
    inputs: Iterable[tuple[Any, Array]],
    labels: Array | None = None,
) -> Agreement:
    """Return how an exported model agrees with its checkpoint.

    Args:
        predictor: The checkpoint.
        run: The exported model.
        inputs: Batches for both, in pairs.
        labels: ``(N,)`` class indices, or None.
    """
    pairs: dict[str, list[tuple[Array, Array]]] = {
        "probabilities": [],
        "logits": [],
        "features": [],
    }
    for own, raw in inputs:
        outputs = predictor.outputs(own)
        known = {**outputs._asdict(), "probabilities": predictor.probabilities(outputs.logits)}
        found = run(raw)
        for name, parts in pairs.items():
            parts.append((known[name], np.asarray(found[name], dtype=np.float64)))
    expected, got = _both(pairs["probabilities"])
    difference = np.abs(expected - got)
    difference[~np.isfinite(difference)] = 1.0
    first, second = expected.argmax(axis=1), got.argmax(axis=1)
    rows = np.arange(len(first))
    accuracy = None
    if labels is not None:
        accuracy = float((first == labels).mean()), float((second == labels).mean())
    return Agreement(
        len(first),
        float(difference.max()),
        float(difference[rows, first].mean()),
        max(_relative(*_both(pairs[name])) for name in ("logits", "features")),
        float((first == second).mean()),
        accuracy,
    )


def _both(pairs: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    first, second = zip(*pairs, strict=True)
    return np.concatenate(first), np.concatenate(second)


def _relative(expected: Array, got: Array) -> float:
    """Return the largest difference as a fraction of the standard deviation."""
    largest = float(np.abs(expected - got).max())
    return largest / (float(expected.std()) or 1.0) if np.isfinite(largest) else float("inf")


def check_parity(found: Agreement, format: str) -> None:
    """Raise CheckpointError if a file in float32 does not compute what its checkpoint does."""
    near = found.max_difference <= TOLERANCE and found.max_outputs <= RELATIVE
    if near and found.same_class == 1.0:
        return
    raise CheckpointError(
        f"nothing was exported: on {found.count} samples the probabilities of the {format} file "
        f"differ by up to {found.max_difference:.2g} from those of the checkpoint (at most "
        f"{TOLERANCE:g} is accepted), logits and features by up to {found.max_outputs:.2g} of "
        f"their standard deviation (at most {RELATIVE:g}), and {100 * found.same_class:.1f} % of "
        "the predicted classes are the same (all are required); set another format"
    )


def check_loss(found: Agreement, precision: str, bound: float | None) -> None:
    """Raise CheckpointError if a reduced precision loses too much.

    On labelled samples, the loss is that of accuracy (at most 0.02), on others the fraction of
    samples with another predicted class (at most 0.05).

    Args:
        found: The comparison.
        precision: The precision.
        bound: Another bound, or None.
    """
    if found.accuracy is not None:
        loss = found.accuracy[0] - found.accuracy[1]
        text, accepted = "of the accuracy is lost", LOST if bound is None else bound
    else:
        loss = 1.0 - found.same_class
        text, accepted = "of the predicted classes change", CHANGED if bound is None else bound
    if loss > accepted:
        raise CheckpointError(
            f"nothing was exported: with precision={precision}, {100 * loss:.1f} % {text} on "
            f"{found.count} samples (at most {100 * accepted:.1f} % is accepted); set "
            f"precision=float32, or max_loss={np.ceil(100 * loss) / 100:.2f} to export it anyway"
        )


def ratio_of_times(first: Runner, second: Runner, inputs: Array, rounds: int = 7) -> dict[str, Any]:
    """Return samples per second of two models, as medians over alternating runs.

    Args:
        first: A model.
        second: Another one.
        inputs: A batch.
        rounds: Number of runs of each.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for run, seconds in zip((first, second), times, strict=True):
            start = time.perf_counter()
            run(inputs)
            if number:  # the first run is a warm-up
                seconds.append(time.perf_counter() - start)
    one, two = (median(seconds) for seconds in times)
    return {
        "batch": len(inputs), "float32_per_second": len(inputs) / one,
        "per_second": len(inputs) / two, "speed": one / two,
    }  # fmt: skip
