"""The keys that a configuration has at its top level."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from tl_lightning.config.paths import CONF

__all__ = ["PLAIN_NODES", "drop_unknown_keys", "known_keys"]

#: Choices of ``conf/train.yaml`` that bring settings to other places and none under their name.
_NO_NODES = {"_self_", "aux_task", "recipe", "recipe_for", "experiment"}

#: Nodes without a class of their own, whose keys no signature knows.
PLAIN_NODES = ("cache", "checkpointing", "report")


@cache
def known_keys() -> dict[str, Any]:
    """Return the top-level keys, and for a node its own keys; empty for a group's choice."""
    plain: Any = OmegaConf.to_container(OmegaConf.load(CONF / "train.yaml"), resolve=False)
    groups = set()
    for item in plain.pop("defaults"):
        name = item if isinstance(item, str) else next(iter(item))
        groups.add(str(name).removeprefix("optional "))
    plain.pop("hydra")
    known: dict[str, Any] = {name: {} for name in groups - _NO_NODES} | plain
    return known


def drop_unknown_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored configuration without what was a setting, or was let pass, at its time."""
    known = known_keys()
    out = {name: value for name, value in config.items() if name in known}
    plain = {name: out[name] for name in PLAIN_NODES if isinstance(out.get(name), Mapping)}
    return out | {
        name: {key: value for key, value in node.items() if key in known[name]}
        for name, node in plain.items()
    }
