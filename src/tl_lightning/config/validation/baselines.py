"""Checks of the baselines that are trained beside an adapted model."""

from __future__ import annotations

from typing import Any

__all__ = ["bracket_faults"]

#: What ``bracket`` may train beside a model, in the order of the report.
BASELINES = ("source_only", "joint_bn", "oracle")


def bracket_faults(bracket: Any) -> list[str]:
    """Return what is wrong with ``bracket``.

    >>> bracket_faults(True), bracket_faults(["oracle"])
    ([], [])
    """
    listed = isinstance(bracket, list) and all(name in BASELINES for name in bracket)
    if listed or bracket in ("auto", True, False):
        return []
    return [
        f"bracket={bracket} is neither auto, true or false nor a list of baselines; type "
        f"bracket=true, or bracket=[{','.join(BASELINES)}]"
    ]
