"""Selection rules: the metric by which the best model of a run is chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["SELECTIONS", "Selection"]


@dataclass(frozen=True)
class Selection:
    """Rule that chooses the epoch whose model is saved and tested.

    Attributes:
        monitor: Name of the logged metric, or None for the last epoch.
        mode: Whether higher (``max``) or lower (``min``) values are better.
        needs_target: Whether the rule needs target images (never labels).
        uses_target_labels: Whether the rule uses target labels; only ``oracle`` does.
        description: Description in the report.
    """

    monitor: str | None
    mode: Literal["min", "max"]
    needs_target: bool
    uses_target_labels: bool
    description: str


def _unlabelled(name: str, criterion: str) -> Selection:
    """Return the rule for a score of ``selection/scores.py``, after the collapse filter."""
    description = f"{criterion} among models that have not collapsed, target unlabelled"
    return Selection(f"validator/floored/{name}", "max", True, False, description)


SELECTIONS = {
    "source_val": Selection(
        "source/val/acc", "max", False, False, "highest accuracy on labelled source validation"
    ),
    "im": _unlabelled("im", "highest information maximisation"),
    "entropy": _unlabelled("entropy", "lowest prediction entropy"),
    "bnm": _unlabelled("bnm", "highest nuclear norm of the predictions"),
    "snd": _unlabelled("snd", "highest soft neighbourhood density"),
    "dev": _unlabelled("dev", "lowest deep embedded validation risk"),
    "iwcv": _unlabelled("iwcv", "lowest importance-weighted source risk"),
    "last": Selection(None, "max", False, False, "the last epoch"),
    "oracle": Selection(
        "target/val/acc", "max", True, True, "highest accuracy on target validation: USES LABELS"
    ),
}
