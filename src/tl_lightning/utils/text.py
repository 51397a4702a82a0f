"""Flattening of nested mappings, and shortening of lists for messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["flatten", "shorten"]


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as a flat dict with dotted keys, as used on the command line.

    >>> flatten({"method": {"dann": {"max_lambda": 0.1}}, "seed": 0})
    {'method.dann.max_lambda': 0.1, 'seed': 0}
    """
    if not isinstance(config, Mapping) or not config:
        return {prefix: config} if prefix else {}
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def shorten(items: Sequence[object], shown: int = 5, separator: str = ", ") -> str:
    """Return the first items as one line, with the number of those that are left out.

    >>> shorten(["a", "b", "c"], shown=2)
    'a, b and 1 more'
    """
    more = len(items) - shown
    rest = f"{';' if separator != ', ' else ''} and {more} more" if more > 0 else ""
    return separator.join(map(str, items[:shown])) + rest
