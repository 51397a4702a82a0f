"""One estimate of accuracy from several, and how wide its interval has to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

__all__ = ["Combination"]

#: Standard error that is left if all estimators agree and the samples are many.
BASE = 0.05


@dataclass(frozen=True)
class Combination:
    """A weighted sum of estimates, with an interval.

    Attributes:
        weights: By name of the estimator.
        bias: Added to the sum.
        factor: Half the width of the interval divided by :meth:`scale`, from the errors on datasets
            that the weights were not fitted to.
        limit: Name of an estimate that the result does not exceed; None: not limited.
    """

    weights: Mapping[str, float]
    bias: float = 0.0
    factor: float = 1.0
    limit: str | None = None

    def value(self, estimates: Mapping[str, float]) -> float:
        """Return the combined estimate, in [0, 1].

        >>> Combination({"atc": 0.5, "cot": 0.5}).value({"atc": 0.4, "cot": 0.6, "doc": 0.9})
        0.5
        """
        total = self.bias + sum(w * estimates[name] for name, w in self.weights.items())
        most = 1.0 if self.limit is None else estimates[self.limit]
        return float(np.clip(total, 0.0, most))

    def scale(
        self, estimates: Mapping[str, float], source_samples: int, target_samples: int
    ) -> float:
        """Return the error to expect before multiplication by :attr:`factor`.

        It is larger if the estimators disagree or the samples are few: the root of the sum of
        squares of a constant, the standard deviation of the estimates that have a weight, and the
        standard errors of an accuracy on as many samples of each domain.

        >>> one = Combination({"atc": 0.5, "cot": 0.5})
        >>> agree, differ = {"atc": 0.5, "cot": 0.5}, {"atc": 0.2, "cot": 0.8}
        >>> [round(one.scale(e, 500, m), 2) for e in (agree, differ) for m in (5, 500)]
        [0.23, 0.06, 0.38, 0.31]
        """
        value = self.value(estimates)
        spread = float(np.std([estimates[name] for name in self.weights]))
        # One more sample of each outcome: five equal predictions still have a standard error.
        samples = np.array([source_samples, target_samples])
        accuracy = (value * samples + 1) / (samples + 2)
        sampling = float(np.sum(accuracy * (1 - accuracy) / samples))
        return float(np.sqrt(BASE**2 + spread**2 + sampling))

    def interval(
        self, estimates: Mapping[str, float], source_samples: int, target_samples: int
    ) -> tuple[float, float]:
        """Return both ends of the interval, in [0, 1]."""
        half = self.factor * self.scale(estimates, source_samples, target_samples)
        value = self.value(estimates)
        return max(0.0, value - half), min(1.0, value + half)
