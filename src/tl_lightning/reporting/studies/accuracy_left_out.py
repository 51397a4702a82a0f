"""Errors of combined estimates of accuracy on datasets that they were not fitted to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from tl_lightning.reliability.combination import Combination
from tl_lightning.reporting.artifacts import Array
from tl_lightning.reporting.studies.accuracy_pairs import Pair

__all__ = ["METHODS", "SETTINGS", "USED", "Prediction", "Setting", "fit", "left_out"]

#: Intended coverage of the interval.
COVERAGE = 0.9
#: The estimators that notice a shift; the source accuracy and reweighted recalls do not.
SENSITIVE = ("confidence", "doc", "atc", "atc_entropy", "cot", "cott", "nuclear", "mano")
#: Of each: the mean and the fraction above a threshold, without and with transport to labels.
FOUR = ("confidence", "atc", "cot", "cott")
#: Penalty of the ridge regression, in pairs.
PENALTY = 0.3

Fit = Callable[[Sequence[Pair]], Combination]


@dataclass(frozen=True)
class Prediction:
    """An estimate for a pair whose dataset was left out.

    Attributes:
        pair: The pair.
        value: The estimate.
        low: Lower end of its interval.
        high: Upper end of its interval.
    """

    pair: Pair
    value: float
    low: float
    high: float

    @property
    def error(self) -> float:
        """Estimate minus true accuracy."""
        return self.value - self.pair.accuracy

    @property
    def covered(self) -> bool:
        """Whether the interval contains the true accuracy."""
        return self.low <= self.pair.accuracy <= self.high


def mean_of(*names: str) -> Combination:
    """Return the mean of some estimators."""
    return Combination(dict.fromkeys(names, 1 / len(names)))


def best_mean(pairs: Sequence[Pair], size: int) -> Combination:
    """Return the mean of the ``size`` estimators with the smallest mean absolute error."""
    values, truth, weights = _matrix(pairs)
    errors = {
        chosen: np.abs(values[:, chosen].mean(axis=1) - truth) @ weights
        for chosen in combinations(range(len(SENSITIVE)), size)
    }
    return mean_of(*(SENSITIVE[i] for i in min(errors, key=lambda chosen: errors[chosen])))


def ridge(pairs: Sequence[Pair]) -> Combination:
    """Return a ridge regression whose penalty draws the weights towards the mean of all."""
    values, truth, weights = _matrix(pairs)
    centre = values.mean(axis=1)
    design = np.concatenate([values - centre[:, None], np.ones((len(pairs), 1))], axis=1)
    scaled = design * weights[:, None]
    # The mean has no deviation from itself, so that the weights of deviations sum to any number.
    gram = scaled.T @ design + PENALTY / len(pairs) * np.eye(design.shape[1])
    *deviations, bias = np.linalg.solve(gram, scaled.T @ (truth - centre))
    weight = (1 - np.sum(deviations)) / len(SENSITIVE) + np.array(deviations)
    return Combination(dict(zip(SENSITIVE, map(float, weight), strict=True)), float(bias))


def chosen(pairs: Sequence[Pair]) -> Combination:
    """Return the method with the smallest mean error on left-out datasets of these pairs."""
    methods = [method for name, method in METHODS.items() if name != CHOSEN]
    if len({pair.data for pair in pairs}) < 2:
        return methods[0](pairs)

    def error(method: Fit) -> float:
        found = {}
        for held, rest in _splits(pairs):
            combination = method(rest)
            errors = [abs(combination.value(p.estimators) - p.accuracy) for p in held]
            found[held[0].data] = np.mean(errors)
        return float(np.mean(list(found.values())))

    return min(methods, key=error)(pairs)


#: The method that chooses among the others.
CHOSEN = "chosen on the other datasets"
#: Combinations by title.
METHODS: dict[str, Fit] = {
    "mean of ATC and confidence": lambda pairs: mean_of("atc", "confidence"),
    "mean of ATC, confidence and both transports": lambda pairs: mean_of(*FOUR),
    "mean of all but source, BBSE, MLLS": lambda pairs: mean_of(*SENSITIVE),
    "best estimator": lambda pairs: best_mean(pairs, 1),
    "best mean of two": lambda pairs: best_mean(pairs, 2),
    "best mean of three": lambda pairs: best_mean(pairs, 3),
    "ridge regression": ridge,
    CHOSEN: chosen,
}


#: The combination that the package uses, with the constants in reliability/accuracy.py.
USED = "mean of ATC, confidence and both transports"


@dataclass(frozen=True)
class Setting:
    """Pairs that have an interval in common.

    Attributes:
        title: For reports.
        adapted: Whether the models were trained on target samples; None: both.
        limit: Name of the estimate that the combination does not exceed; None: not limited.
    """

    title: str
    adapted: bool | None = None
    limit: str | None = None

    def pairs(self, pairs: Sequence[Pair]) -> list[Pair]:
        """Return those of the setting."""
        return [
            pair
            for pair in pairs
            if self.adapted in (None, pair.adapted)
            and (self.limit is None or self.limit in pair.estimators)
        ]


#: The settings that the package distinguishes.
SETTINGS = (
    Setting("Models not trained on the target", adapted=False),
    Setting("Models trained on the target", adapted=True),
    Setting("Compared with another model", limit="other"),
)


def fit(pairs: Sequence[Pair], method: Fit, limit: str | None = None) -> Combination:
    """Return a combination whose interval covers 90 % of the errors on left-out datasets."""
    ratios = []
    for held, rest in _splits(pairs):
        found = replace(method(rest), limit=limit)
        for pair in held:
            scale = found.scale(pair.estimators, pair.source_samples, pair.samples)
            ratios.append(abs(found.value(pair.estimators) - pair.accuracy) / scale)
    factor = float(np.quantile(ratios, COVERAGE)) if ratios else 1.0
    return replace(method(pairs), factor=factor, limit=limit)


def left_out(pairs: Sequence[Pair], method: Fit, limit: str | None = None) -> list[Prediction]:
    """Return predictions for each pair by a combination fitted to the other datasets.

    Weights, choices and the width of the interval are all fitted without the pair's dataset.
    """
    predictions = []
    for held, rest in _splits(pairs):
        found = fit(rest, method, limit)
        for pair in held:
            low, high = found.interval(pair.estimators, pair.source_samples, pair.samples)
            predictions.append(Prediction(pair, found.value(pair.estimators), low, high))
    return predictions


def _splits(pairs: Sequence[Pair]) -> list[tuple[list[Pair], list[Pair]]]:
    """Return the pairs of each dataset with those of the others; empty if there is only one."""
    names = list(dict.fromkeys(pair.data for pair in pairs))
    return [
        ([p for p in pairs if p.data == name], [p for p in pairs if p.data != name])
        for name in names
        if len(names) > 1
    ]


def _matrix(pairs: Sequence[Pair]) -> tuple[Array, Array, Array]:
    """Return estimates ``(P, E)``, true accuracies and weights, equal for every dataset."""
    values = np.array([[pair.estimators[name] for name in SENSITIVE] for pair in pairs])
    count = {pair.data: sum(other.data == pair.data for other in pairs) for pair in pairs}
    weights = np.array([1 / count[pair.data] / len(count) for pair in pairs])
    return values, np.array([pair.accuracy for pair in pairs]), weights
