"""The rules that pick the model which is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["SELECTIONS", "Selection"]


@dataclass(frozen=True)
class Selection:
    """A rule that picks the epoch whose model is kept and tested.

    Attributes:
        monitor: The logged value, or None for the last epoch.
        mode: Whether large or small values win.
        needs_target: Whether target pictures (never labels) are needed.
        uses_target_labels: Whether the rule peeks; only ``oracle`` does.
        words: What the report says of it.
    """

    monitor: str | None
    mode: Literal["min", "max"]
    needs_target: bool
    uses_target_labels: bool
    words: str


def _unlabelled(name: str, words: str) -> Selection:
    """Return a rule by a score of ``callbacks/validators.py``."""
    words = f"{words} of models that have not collapsed, target unlabelled"
    return Selection(f"validator/floored/{name}", "max", True, False, words)


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
