"""Flattening of nested mappings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["flatten"]


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
