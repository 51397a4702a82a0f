"""Whether the settings ``data.target`` mean a target; imports neither torch nor Lightning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["no_target", "target_setting"]


def no_target(cls: Any, target: Mapping[str, Any] | None) -> bool:
    """Return whether these settings of ``data.target`` mean no target.

    Args:
        cls: A subclass of ``TransferDataModule``, or the ``StaticClass`` of one.
        target: The settings.
    """
    if target is None:
        return True
    if cls.target_requires:
        return target.get(cls.target_requires) is None
    keys = cls.target_keys - {"labels", "classes"}  # which say nothing of where the target is
    return cls.target_optional and not any(target.get(key) for key in keys)


def target_setting(cls: Any) -> str:
    """Return what to set below ``data.target`` for a target, for error messages.

    Args:
        cls: As for :func:`no_target`.
    """
    return "domain=<name>" if cls.has_domains else str(cls.target_place)
