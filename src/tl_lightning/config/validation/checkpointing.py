"""Checks of the ``checkpointing`` settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["checkpoint_problems"]


def checkpoint_problems(node: Mapping[str, Any]) -> list[str]:
    """Return an error message for every problem of the configuration's ``checkpointing``."""
    minimum = {"every_n_epochs": 1, "every_n_steps": 1, "keep_last": 1}
    problems = []
    for key, value in node.items():
        optional = key in ("every_n_steps", "every_minutes")
        number = isinstance(value, int if key in minimum else int | float)
        if value is None and optional:
            continue
        least = minimum.get(key, 0)
        if not number or isinstance(value, bool) or value < least:
            kind = "an integer" if key in minimum else "a number"
            problems.append(
                f"checkpointing.{key}={value} must be {kind} of at least {least}"
                f"{' or null' if optional else ''}; set checkpointing.{key}=<number>"
            )
    return problems
