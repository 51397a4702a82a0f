"""Checks of single settings, independent of the others."""

from __future__ import annotations

import typing
from typing import Any

from tl_lightning.config.hints import describe, fits
from tl_lightning.config.instantiate import find_class
from tl_lightning.config.validation.baselines import baseline_problems
from tl_lightning.config.validation.checkpointing import checkpoint_problems
from tl_lightning.config.validation.reporting import projection_problems
from tl_lightning.config.validation.trainer import timeout_problems
from tl_lightning.data.cache.images import CacheSettings
from tl_lightning.distributed.strategy import alone
from tl_lightning.errors import nearest
from tl_lightning.selection.rules import SELECTIONS
from tl_lightning.types import Config

__all__ = ["range_problems", "top_level_problems"]


def top_level_problems(config: Config) -> list[str]:
    """Return the problems of single top-level settings."""
    problems = []
    if isinstance(config["seed"], bool) or not isinstance(config["seed"], int):
        problems.append(f"seed={config['seed']} is not an integer; set seed=0")
    if config["selection"] not in (*SELECTIONS, "auto"):
        hint = nearest(str(config["selection"]), [*SELECTIONS, "auto"])
        problems.append(f"selection={config['selection']} is not a selection rule; {hint}")
    if not isinstance(config["track_target"], bool):
        problems.append(
            f"track_target={config['track_target']} is neither true nor false; set "
            "track_target=false"
        )
    problems += baseline_problems(config["baselines"])
    problems += checkpoint_problems(config["checkpointing"]) + timeout_problems(config["trainer"])
    problems += projection_problems(config["report"].get("projection"))
    hints = typing.get_type_hints(CacheSettings)
    problems += [
        f"cache.{key}={value} is not {describe(hints[key])}; set cache.{key}=<value>"
        for key, value in config["cache"].items()
        if not fits(value, hints[key])
    ]
    init = config.get("init")
    paths = {"backbone.checkpoint": config["backbone"].get("checkpoint"), "init": init}
    problems += [
        f"{key}={path} is not a path; set {key}=<run folder>"
        for key, path in paths.items()
        if not (path is None or isinstance(path, str))
    ]
    if not isinstance(config["compile"], bool) and config["compile"] not in _compilers():
        problems.append(
            f"compile={config['compile']} is neither true nor false nor a backend of torch.compile "
            f"({', '.join(_compilers())}); set compile=true"
        )
    decay = config.get("layer_decay", 1.0)
    if not fits(decay, float) or not 0 < decay <= 1:
        problems.append(f"layer_decay={decay} is not in (0, 1]; set layer_decay=0.75")
    lr_find, lr = config.get("lr_find", False), config["optimizer"]["lr"]
    if not isinstance(lr_find, bool):
        problems.append(f"lr_find={lr_find} is neither true nor false; set lr_find=true")
    if lr_find and not (fits(lr, float) and lr > 0):
        problems.append(
            f"lr_find=true needs optimizer.lr > 0 to start from, got {lr}; set optimizer.lr=0.001"
        )
    if lr_find and not alone(config["trainer"]):
        devices, nodes = (config["trainer"][key] for key in ("devices", "num_nodes"))
        problems.append(
            f"lr_find=true runs on one device, but trainer.devices={devices} and "
            f"trainer.num_nodes={nodes}; run it with trainer=auto first, then set "
            "optimizer.lr=<the learning rate found> and lr_find=false"
        )
    layout = config["channels_last"]
    if layout not in ("auto", True, False):
        problems.append(
            f"channels_last={layout} is not auto, true or false; set channels_last=auto"
        )
    return problems


def _compilers() -> list[str]:
    return ["inductor", "cudagraphs", "aot_eager", "eager"]


def range_problems(config: Config, allowed: list[str]) -> list[str]:
    """Return the settings that are out of range, as reported by ``check_config`` of the classes."""
    nodes = {key: config.get(key) for key in ("loss", "backbone")}
    nodes["backbone.lora"] = config["backbone"].get("lora")
    for group in ("method", "regularizer", "callbacks"):
        nodes |= {f"{group}.{name}": node for name, node in (config.get(group) or {}).items()}
    problems: list[str] = []
    for where, node in nodes.items():
        cls: Any = find_class(node["_target_"], where, allowed)[0] if node else None
        if hasattr(cls, "check_config"):
            problems += cls.check_config(where, node)
    return problems
