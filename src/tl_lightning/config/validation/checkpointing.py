"""Checks of the settings of checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["checkpoint_faults"]


def checkpoint_faults(node: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the configuration's ``checkpoint``, a sentence each."""
    least = {"every_n_epochs": 1, "every_n_steps": 1, "keep_last": 1}
    faults = []
    for key, value in node.items():
        optional = key in ("every_n_steps", "every_minutes")
        number = isinstance(value, int if key in least else int | float)
        if value is None and optional:
            continue
        if not number or isinstance(value, bool) or value < least.get(key, 0):
            kind = "a whole number" if key in least else "a number"
            faults.append(
                f"checkpoint.{key}={value} is not {kind} of at least {least.get(key, 0)}"
                f"{' or null' if optional else ''}; type checkpoint.{key}=<value>"
            )
    return faults
