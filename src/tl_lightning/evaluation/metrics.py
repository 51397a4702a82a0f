"""Test metrics from logits and labels, with 95 % intervals; pure functions on numpy arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, logsumexp, ndtri

from tl_lightning.reporting.statistics import CONFIDENCE, wilson
from tl_lightning.utils.text import shorten

__all__ = [
    "SCORES",
    "Assessment",
    "ClassScore",
    "Confused",
    "Score",
    "assess",
    "fraction",
    "plain_values",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Labels of the scores in tables, in their order.
SCORES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "top5": "top-5 accuracy",
    "precision": "precision, macro",
    "recall": "recall, macro",
    "f1": "F1, macro",
    "weighted_precision": "precision, weighted",
    "weighted_recall": "recall, weighted",
    "weighted_f1": "F1, weighted",
    "kappa": "Cohen's kappa",
    "auroc": "AUROC, one-vs-rest",
}
#: Resampled test sets, and their seed.
REPLICATES, SEED = 1000, 0
#: A class with fewer test samples makes the intervals of averages over classes too narrow.
FEW = 5
#: Share of the width of an interval, about a standard error, by which the mean of the resampled
#: values may differ from the value, as that of the macro precision does with two samples per class.
BIAS = 0.25


class Score(NamedTuple):
    """A metric with its 95 % interval.

    Attributes:
        value: None if it is not defined for these labels.
        low: Lower end of the interval; None if there is none.
        high: Upper end.
    """

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ClassScore:
    """The metrics of one class.

    Attributes:
        name: Name of the class.
        support: Number of test samples of the class.
        predicted: Number of test samples that were assigned to it.
        recall: Share of its samples that were recognised, with Wilson's interval.
        precision: None if it was never predicted.
        f1: Harmonic mean of the two; None if there are neither samples nor predictions of it.
        auroc: Area under the ROC curve of this class against all others.
    """

    name: str
    support: int
    predicted: int
    recall: Score
    precision: float | None
    f1: float | None
    auroc: float | None


class Confused(NamedTuple):
    """Samples of one class that were assigned to another: ``share`` of the class's samples."""

    true: str
    predicted: str
    samples: int
    share: float


@dataclass(frozen=True)
class Assessment:
    """All that can be said of the predictions for a labelled test set.

    Attributes:
        samples: Number of samples.
        scores: The metrics by the names in :data:`SCORES`; ``top5`` only with more than 5 classes.
        classes: The metrics of every class, in the order of the labels.
        confused: The most frequent confusions, the most frequent first.
        confusion: ``(K, K)`` number of samples by true and predicted class.
        notes: What limits the metrics, as full sentences.
    """

    samples: int
    scores: Mapping[str, Score]
    classes: Sequence[ClassScore]
    confused: Sequence[Confused]
    confusion: Ints
    notes: Sequence[str]


def assess(
    logits: NDArray[Any], labels: NDArray[Any], names: Sequence[str], pairs: int = 10
) -> Assessment:
    """Return the metrics of a test set.

    Averages over classes leave out classes that are neither among the labels nor predicted, as
    scikit-learn and torchmetrics do; balanced accuracy and AUROC leave out all classes without
    samples. The intervals of accuracy, top-5 accuracy and recall of a class are Wilson's, that of
    AUROC is DeLong's (:func:`_auroc`); all others are percentiles of a bootstrap within each class
    (:func:`_bootstrap`), which are left out if all resampled test sets have the same value, or if
    their mean is biased.

    Args:
        logits: ``(n, K)``, finite; n > 0.
        labels: ``(n,)`` class indices.
        names: Names of the K classes.
        pairs: Number of confused pairs to list.

    >>> found = assess(np.eye(3)[[0, 1, 1, 2]], np.array([0, 1, 2, 2]), ("a", "b", "c"))
    >>> found.scores["accuracy"].value, found.confused[0]
    (0.75, Confused(true='c', predicted='b', samples=1, share=0.5))
    """
    scores = np.asarray(logits, dtype=np.float64)
    true = np.asarray(labels, dtype=np.int64)
    size = len(names)
    predicted = scores.argmax(1)
    confusion = np.bincount(true * size + predicted, minlength=size * size).reshape(size, size)
    support, given, hits = confusion.sum(1), confusion.sum(0), confusion.diagonal()
    found = {"accuracy": fraction(int(hits.sum()), len(true))}
    if size > 5:
        found["top5"] = fraction(_top5(scores, true), len(true))
    values = _averages(hits[None], given[None], support)
    draws = _averages(*_bootstrap(confusion), support)
    found |= {name: _with_percentiles(value[0], draws[name]) for name, value in values.items()}
    found["auroc"], aurocs = _auroc(scores, true)
    return Assessment(
        len(true),
        {name: found[name] for name in SCORES if name in found},
        _classes(names, support, given, hits, aurocs),
        _confused(confusion, names, pairs),
        confusion,
        list(_notes(support, names)),
    )


def fraction(hits: int, n: int) -> Score:
    """Return ``hits`` of ``n`` > 0 with Wilson's interval."""
    return Score(hits / n, *wilson(hits, n))


def _top5(scores: Floats, true: Ints) -> int:
    """Return the number of samples whose class is among the five with the largest scores."""
    own = scores[np.arange(len(true)), true]
    above = (scores > own[:, None]).sum(1)
    # Of classes with equal scores, those with a smaller index come first, as in argmax.
    before = (scores == own[:, None]) & (np.arange(scores.shape[1]) < true[:, None])
    return int((above + before.sum(1) < 5).sum())


def _averages(hits: NDArray[Any], given: NDArray[Any], support: Ints) -> dict[str, Floats]:
    """Return averages over classes of B test sets.

    Args:
        hits: ``(B, K)`` number of right predictions by class.
        given: ``(B, K)`` number of predictions by class.
        support: ``(K,)`` number of samples by class.

    Returns:
        Values ``(B,)`` by name; NaN where kappa is not defined.
    """
    n, counted = support.sum(), given + support > 0
    parts = {
        "precision": hits / np.where(given, given, 1),
        "recall": hits / np.maximum(support, 1),
        "f1": 2 * hits / np.maximum(given + support, 1),
    }
    found = {name: part.sum(1) / counted.sum(1) for name, part in parts.items()}
    found |= {f"weighted_{name}": part @ support / n for name, part in parts.items()}
    found["balanced_accuracy"] = parts["recall"].sum(1) / (support > 0).sum()
    by_chance = given @ support / n**2
    with np.errstate(invalid="ignore"):
        found["kappa"] = (hits.sum(1) / n - by_chance) / np.where(by_chance < 1, 1 - by_chance, 0)
    return found


def _bootstrap(confusion: Ints) -> tuple[Floats, Floats]:
    """Return right predictions and predictions by class, each ``(B, K)``, of resampled test sets.

    Every class keeps its number of samples n; its row of the confusion matrix is drawn from the
    multinomial distribution of the observed row, as if its samples were drawn with replacement.
    As in Rao and Wu (1988), "Resampling inference with complex survey data", n - 1 samples are
    drawn and count n / (n - 1) each: intervals of small classes are too narrow otherwise.
    """
    random = np.random.default_rng(SEED)
    hits, given = (np.zeros((REPLICATES, len(confusion))) for _ in range(2))
    for label, row in enumerate(confusion):
        number = int(row.sum())
        if number:
            cells, drawn = np.flatnonzero(row), max(number - 1, 1)
            counts = random.multinomial(drawn, row[cells] / number, REPLICATES) * (number / drawn)
            given[:, cells] += counts
            hits[:, label] = counts[:, cells == label].sum(1)
    return hits, given


def _with_percentiles(value: float, draws: Floats) -> Score:
    if not np.isfinite(value):
        return Score(None)
    tail = (1 - CONFIDENCE) / 2
    low, high = (float(end) for end in np.nanquantile(draws, [tail, 1 - tail]))
    biased = abs(float(np.nanmean(draws)) - value) > BIAS * (high - low)
    return Score(float(value), low, high) if low < high and not biased else Score(float(value))


def _auroc(scores: Floats, true: Ints) -> tuple[Score, list[float | None]]:
    """Return the mean AUROC of each class against the others, and the AUROC of each class.

    The interval is that of DeLong et al. (1988), "Comparing the areas under two or more correlated
    receiver operating characteristic curves", on the logit scale: every sample has a share in the
    mean over all classes, and the variances of these shares within the true classes add up.
    """
    n, size = scores.shape
    odds, support = _log_odds(scores), np.bincount(true, minlength=size)
    areas: list[float | None] = [None] * size
    shares = np.zeros(n)
    for label in map(int, np.flatnonzero((support > 0) & (support < n))):
        own = true == label
        inside, outside = np.sort(odds[own, label]), np.sort(odds[~own, label])
        below = _placed(outside, odds[own, label])
        above = 1 - _placed(inside, odds[~own, label])
        area = float(below.mean())
        shares[own] += (below - area) / len(inside)
        shares[~own] += (above - area) / len(outside)
        areas[label] = area
    known = [area for area in areas if area is not None]
    if not known:
        return Score(None), areas
    mean, shares = float(np.mean(known)), shares / len(known)
    variance = sum(
        float(((part - part.mean()) ** 2).sum()) * len(part) / (len(part) - 1)
        for part in (shares[true == label] for label in np.flatnonzero(support > 1))
    )
    if not 0 < mean < 1 or variance <= 0:
        return Score(mean), areas
    reach = float(ndtri(0.5 + CONFIDENCE / 2)) * np.sqrt(variance) / (mean * (1 - mean))
    ends = expit(logit(mean) + np.array([-reach, reach]))
    return Score(mean, float(ends[0]), float(ends[1])), areas


def _placed(ordered: Floats, values: Floats) -> Floats:
    """Return the share of ``ordered`` below each value; equal ones count half."""
    left, right = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
    found: Floats = (left + right) / (2 * len(ordered))
    return found


def _log_odds(scores: Floats) -> Floats:
    """Return ``log(p / (1 - p))`` of the softmax; unlike p, it has no ties close to 1."""
    logs = scores - logsumexp(scores, axis=1, keepdims=True)
    rows, top = np.arange(len(scores)), scores.argmax(1)
    others = scores.copy()
    others[rows, top] = -np.inf
    odds: Floats = logs - np.log1p(-np.exp(np.where(logs < -0.01, logs, -0.01)))
    odds[rows, top] = scores[rows, top] - logsumexp(others, axis=1)
    return odds


def _classes(
    names: Sequence[str], support: Ints, given: Ints, hits: Ints, aurocs: Sequence[float | None]
) -> list[ClassScore]:
    return [
        ClassScore(
            name,
            int(number),
            int(guesses),
            fraction(int(right), int(number)) if number else Score(None),
            float(right / guesses) if guesses else None,
            float(2 * right / (number + guesses)) if number + guesses else None,
            area,
        )
        for name, number, guesses, right, area in zip(
            names, support, given, hits, aurocs, strict=True
        )
    ]


def _confused(confusion: Ints, names: Sequence[str], pairs: int) -> list[Confused]:
    wrong = confusion * (1 - np.eye(len(confusion), dtype=np.int64))
    support = confusion.sum(1)
    rows, columns = np.nonzero(wrong)
    found = [
        Confused(names[i], names[j], int(wrong[i, j]), float(wrong[i, j] / support[i]))
        for i, j in zip(rows.tolist(), columns.tolist(), strict=True)
    ]
    return sorted(found, key=lambda pair: (-pair.samples, -pair.share))[:pairs]


def _notes(support: Ints, names: Sequence[str]) -> Iterator[str]:
    """Yield what limits the metrics."""
    n, present = int(support.sum()), [int(label) for label in np.flatnonzero(support)]
    if len(present) == 1:
        yield (
            f"all test samples are of the class {names[present[0]]}, so that AUROC is not defined "
            "and averages over classes say little"
        )
        return
    if missing := [name for name, number in zip(names, support, strict=True) if not number]:
        yield (
            f"{len(missing)} of {len(names)} classes have no test samples and are left out of "
            f"balanced accuracy and AUROC: {shorten(missing)}"
        )
    few = [names[label] for label in present if support[label] < FEW]
    if few:
        yield (
            f"{len(few)} of {len(names)} classes have fewer than {FEW} test samples ({n:,} in "
            "all), so that the intervals of averages over classes are too narrow or left out"
        )


def plain_values(found: Assessment) -> dict[str, Any]:
    """Return an assessment as mappings, lists and numbers; only ``confusion`` is an array."""
    return {
        "samples": found.samples,
        "scores": {name: score._asdict() for name, score in found.scores.items()},
        "classes": [
            {
                **vars(one), "recall": one.recall.value, "recall_low": one.recall.low,
                "recall_high": one.recall.high,
            }
            for one in found.classes
        ],
        "confused": [pair._asdict() for pair in found.confused],
        "confusion": found.confusion,
        "notes": list(found.notes),
    }  # fmt: skip
