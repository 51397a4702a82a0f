"""The figure by which runs are compared: accuracy, or that of tasks without classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tl_lightning.reporting.formatting import points

__all__ = ["ACCURACY", "MEASURES", "Measure", "measure_of"]


@dataclass(frozen=True)
class Measure:
    """A test metric.

    Attributes:
        metric: Its name, such as ``acc`` in ``target/test/acc``.
        label: Its name in sentences.
        lower_is_better: Whether lower values are better; values are then in the unit of the labels,
            otherwise they are fractions.
    """

    metric: str
    label: str
    lower_is_better: bool = False

    @property
    def scale(self) -> float:
        """Factor on values that are shown."""
        return 1.0 if self.lower_is_better else 100.0

    @property
    def unit(self) -> str:
        """Unit of values that are shown."""
        return "" if self.lower_is_better else " %"

    def number(self, value: float) -> str:
        """Return a value as text, without its unit.

        >>> ACCURACY.number(0.6128), MEASURES["mae"].number(0.61284)
        ('61.3', '0.6128')
        """
        return f"{value:.4g}" if self.lower_is_better else f"{100 * value:.1f}"

    def text(self, value: float | None) -> str:
        """Return a value with its unit.

        >>> ACCURACY.text(0.6128), MEASURES["mae"].text(0.61284), ACCURACY.text(None)
        ('61.3 %', '0.6128', '–')
        """
        return "–" if value is None else self.number(value) + self.unit

    def spread(self, value: float) -> str:
        """Return a standard deviation or half the width of an interval as text."""
        return f"{value:.2g}" if self.lower_is_better else f"{100 * value:.1f}"

    def difference(self, value: float) -> str:
        """Return a signed difference as text, of fractions in points.

        >>> ACCURACY.difference(0.175), MEASURES["mae"].difference(-0.25)
        ('+17.5', '-0.25')
        """
        return f"{value:+.3g}" if self.lower_is_better else points(value)

    def better(self, difference: float) -> bool:
        """Return whether a difference is one for the better."""
        return difference < 0 if self.lower_is_better else difference > 0


#: By the name of the metric.
MEASURES = {
    "acc": Measure("acc", "accuracy"),
    "mae": Measure("mae", "mean absolute error", lower_is_better=True),
    "f1": Measure("f1", "F1"),
}
ACCURACY = MEASURES["acc"]
_BY_TASK = {"regression": "mae", "multi_label": "f1"}


def measure_of(report: Mapping[str, Any]) -> Measure:
    """Return the figure by which a run is compared with others.

    >>> measure_of({"task": "regression"}).metric, measure_of({}).metric
    ('mae', 'acc')
    """
    return MEASURES[_BY_TASK.get(str(report.get("task")), "acc")]
