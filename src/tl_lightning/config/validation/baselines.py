"""Checks of ``baselines``, the models trained for comparison with an adapted model."""

from __future__ import annotations

from typing import Any

__all__ = ["baseline_problems"]

#: Models that ``baselines`` may train, in the order of the report.
BASELINES = ("source_only", "joint_bn", "oracle")


def baseline_problems(baselines: Any) -> list[str]:
    """Return the problems of ``baselines``.

    >>> baseline_problems(True), baseline_problems(["oracle"])
    ([], [])
    """
    listed = isinstance(baselines, list) and all(name in BASELINES for name in baselines)
    if listed or baselines in ("auto", True, False):
        return []
    return [
        f"baselines={baselines} is not auto, true, false or a list of baselines; set "
        f"baselines=true, or baselines=[{','.join(BASELINES)}]"
    ]
