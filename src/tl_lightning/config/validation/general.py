"""Checks of single settings at the top level."""

from __future__ import annotations

import typing
from typing import Any

from tl_lightning.config.instantiate import find_class
from tl_lightning.config.signatures import fits, words
from tl_lightning.config.validation.baselines import bracket_faults
from tl_lightning.config.validation.checkpointing import checkpoint_faults
from tl_lightning.config.validation.reporting import projection_faults
from tl_lightning.config.validation.trainer import timeout_faults
from tl_lightning.data.cache.images import CacheSettings
from tl_lightning.distributed.strategy import alone
from tl_lightning.errors import nearest
from tl_lightning.selection.rules import SELECTIONS
from tl_lightning.types import Config

__all__ = ["range_faults", "top_level_faults"]


def top_level_faults(config: Config) -> list[str]:
    """Return what is wrong with single settings at the top level."""
    faults = []
    if isinstance(config["seed"], bool) or not isinstance(config["seed"], int):
        faults.append(f"seed={config['seed']} is not a whole number; type seed=0")
    if config["selection"] not in (*SELECTIONS, "auto"):
        hint = nearest(str(config["selection"]), [*SELECTIONS, "auto"])
        faults.append(f"selection={config['selection']} is no rule; {hint}")
    if not isinstance(config["track_target"], bool):
        faults.append(
            f"track_target={config['track_target']} is neither true nor false; type "
            "track_target=false"
        )
    faults += bracket_faults(config["bracket"])
    faults += checkpoint_faults(config["checkpoint"]) + timeout_faults(config["trainer"])
    faults += projection_faults(config["report"].get("projection"))
    hints = typing.get_type_hints(CacheSettings)
    faults += [
        f"cache.{key}={value} is not {words(hints[key])}; type cache.{key}=<value>"
        for key, value in config["cache"].items()
        if not fits(value, hints[key])
    ]
    own = {"backbone.checkpoint": config["backbone"].get("checkpoint"), "init": config.get("init")}
    faults += [
        f"{key}={place} is no path; type {key}=<run folder>"
        for key, place in own.items()
        if not (place is None or isinstance(place, str))
    ]
    if not isinstance(config["compile"], bool) and config["compile"] not in _compilers():
        faults.append(
            f"compile={config['compile']} is neither true nor false nor a backend of torch.compile "
            f"({', '.join(_compilers())})"
        )
    decay = config.get("layer_decay", 1.0)
    if not fits(decay, float) or not 0 < decay <= 1:
        faults.append(f"layer_decay={decay} is not in (0, 1]; type layer_decay=0.75")
    finding, rate = config.get("lr_find", False), config["optimizer"]["lr"]
    if not isinstance(finding, bool):
        faults.append(f"lr_find={finding} is neither true nor false")
    if finding and not (fits(rate, float) and rate > 0):
        faults.append(f"lr_find=true needs optimizer.lr > 0 to start from, got {rate}")
    if finding and not alone(config["trainer"]):
        devices, nodes = (config["trainer"][key] for key in ("devices", "num_nodes"))
        faults.append(
            f"lr_find=true tests on one device, but trainer.devices={devices} and "
            f"trainer.num_nodes={nodes}; type trainer=auto first, then optimizer.lr=<what it "
            "finds> without lr_find"
        )
    if config["channels_last"] not in ("auto", True, False):
        faults.append(f"channels_last={config['channels_last']} is neither auto nor true or false")
    return faults


def _compilers() -> list[str]:
    return ["inductor", "cudagraphs", "aot_eager", "eager"]


def range_faults(config: Config, allowed: list[str]) -> list[str]:
    """Return which settings are out of their range, as the classes that know it say."""
    nodes = {key: config.get(key) for key in ("loss", "backbone")}
    nodes["backbone.lora"] = config["backbone"].get("lora")
    for group in ("adapter", "regularizer", "callbacks"):
        nodes |= {f"{group}.{name}": node for name, node in (config.get(group) or {}).items()}
    faults: list[str] = []
    for where, node in nodes.items():
        cls: Any = find_class(node["_target_"], where, allowed)[0] if node else None
        if hasattr(cls, "faults"):
            faults += cls.faults(where, node)
    return faults
