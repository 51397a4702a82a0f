"""Kinds of the main task that methods are written for."""

from __future__ import annotations

__all__ = ["TASKS"]

#: All kinds. Methods that use only features, neither outputs nor labels, support all of them.
TASKS = frozenset({"classification", "multi_label", "ordinal", "regression"})
