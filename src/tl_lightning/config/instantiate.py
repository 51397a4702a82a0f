"""Find the class that a configuration node names, and build it from the node's keys."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from tl_lightning.errors import ConfigError, nearest
from tl_lightning.types import Config

__all__ = ["ALLOWED", "find_class", "instantiate"]


def instantiate(node: Mapping[str, Any], config: Config, **given: Any) -> Any:
    """Build the class that a node names, from the node's keys and ``given``.

    Hydra's own ``instantiate`` would hide our errors in its own, build the nodes that a checkpoint
    carries as plain values, and call functions too.
    """
    allowed = [*ALLOWED, *(config.get("allow") or [])]
    cls, problem = find_class(node["_target_"], "configuration", allowed)
    if problem:
        raise ConfigError(problem)
    keys = {key: value for key, value in node.items() if not key.startswith("_")}
    for key, value in keys.items():
        if isinstance(value, Mapping) and "_target_" in value:
            keys[key] = instantiate(value, config)
    return cls(**keys, **given)


#: Packages whose classes a typed configuration may build; one read from a checkpoint may build far
#: less, see ``config/allowlist.py``.
ALLOWED = ("tl_lightning", "torch", "torchvision", "lightning", "timm", "torchmetrics")


def find_class(target: str, where: str, allowed: Sequence[str] = ALLOWED) -> tuple[Any, str]:
    """Return the class named ``target`` and an empty string, or None and an error message."""
    package = target.split(".")[0]
    if package not in allowed and target not in allowed:
        return None, (
            f"{where}._target_={target} is outside the allowed packages "
            f"({', '.join(allowed)}); set allow=[{target}] if you trust it"
        )
    module, _, name = target.rpartition(".")
    try:
        found = getattr(import_module(module), name, None)
    except ImportError as error:
        return None, f"{where}._target_={target} cannot be imported: {error}"
    if not inspect.isclass(found):
        names = [n for n, m in vars(import_module(module)).items() if inspect.isclass(m)]
        return None, f"{where}._target_={target} is not a class; {nearest(name, names)}"
    return found, ""
