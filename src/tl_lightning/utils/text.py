"""Nested mappings as flat ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["flatten"]


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as dotted keys, as they are typed on the command line.

    >>> flatten({"adapter": {"dann": {"max_lambda": 0.1}}, "seed": 0})
    {'adapter.dann.max_lambda': 0.1, 'seed': 0}
    """
    if not isinstance(config, Mapping) or not config:
        return {prefix: config} if prefix else {}
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat
