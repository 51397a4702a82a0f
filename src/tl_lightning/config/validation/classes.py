"""The classes that the nodes of a configuration name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tl_lightning.config.instantiate import ALLOWED, find_class
from tl_lightning.methods.base import Adapter
from tl_lightning.models.adaptation import DomainAdaptation
from tl_lightning.types import Config

__all__ = ["adapters_of", "adapts", "may_rest", "model_of"]


def adapters_of(config: Config) -> dict[str, type[Adapter]]:
    """Return the classes of the methods in use, by name."""
    allowed = [*ALLOWED, *(config.get("allow") or [])]
    found = {
        name: find_class(node["_target_"], f"adapter.{name}", allowed)[0]
        for name, node in config["adapter"].items()
    }
    return {name: cls for name, cls in found.items() if issubclass(cls, Adapter)}


def may_rest(config: Config) -> bool:
    """Return whether some parameter may have no gradient in some step of some method."""
    return any(cls.may_rest for cls in adapters_of(config).values())


def model_of(config: Mapping[str, Any]) -> Any:
    """Return the class of the model, or None where there is no such class."""
    allowed = [*ALLOWED, *(config.get("allow") or [])]
    return find_class(config["model"]["_target_"], "model", allowed)[0]


def adapts(config: Config) -> bool:
    """Return whether the model takes adapters."""
    model = model_of(config)
    return isinstance(model, type) and issubclass(model, DomainAdaptation)
