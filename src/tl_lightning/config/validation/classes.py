"""Classes named by the ``model`` and ``method`` nodes of a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tl_lightning.config.instantiate import ALLOWED, find_class
from tl_lightning.methods.base import Method
from tl_lightning.models.adaptation import DomainAdaptation
from tl_lightning.types import Config

__all__ = ["find_unused_parameters", "is_adaptation", "method_classes", "model_class"]


def method_classes(config: Config) -> dict[str, type[Method]]:
    """Return the classes of the methods in use, by name."""
    allowed = [*ALLOWED, *(config.get("allow") or [])]
    found = {
        name: find_class(node["_target_"], f"method.{name}", allowed)[0]
        for name, node in config["method"].items()
    }
    return {name: cls for name, cls in found.items() if issubclass(cls, Method)}


def find_unused_parameters(config: Config) -> bool:
    """Return whether some parameters may get no gradient in some steps of a method in use."""
    return any(cls.find_unused_parameters for cls in method_classes(config).values())


def model_class(config: Mapping[str, Any]) -> Any:
    """Return the class of the model, or None if it cannot be found."""
    allowed = [*ALLOWED, *(config.get("allow") or [])]
    return find_class(config["model"]["_target_"], "model", allowed)[0]


def is_adaptation(config: Config) -> bool:
    """Return whether the model takes methods."""
    model = model_class(config)
    return isinstance(model, type) and issubclass(model, DomainAdaptation)
