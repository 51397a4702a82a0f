"""Replace what a configuration leaves to be chosen by what is chosen."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from tl_lightning.config.instantiate import ALLOWED, find_class
from tl_lightning.config.validation.classes import adapts, may_rest
from tl_lightning.distributed.strategy import STRATEGIES, alone, sharded
from tl_lightning.models.phases import resolved_steps
from tl_lightning.types import Config
from tl_lightning.utils.process import auto_precision

__all__ = [
    "has_target",
    "resolve_auto",
    "resolve_phases",
    "resolve_strategy",
    "resolve_target",
    "rule_of",
]


def rule_of(config: Config) -> str:
    """Return the rule that ``selection`` stands for; ``auto`` by docs/measurements.md.

    The same for an adapted model and for what stands beside it, so that they compare.
    """
    if config["selection"] != "auto":
        return str(config["selection"])
    name, scored = config["model"]["name"], (config.get("callbacks") or {}).get("validators")
    if not scored or not config["data"].get("target"):
        return "last"
    if name == "oracle":  # no other figure tells of what it learns
        return "oracle"
    return "bnm" if adapts(config) or name == "source_only" else "last"


def resolve_phases(config: Config) -> Config:
    """Make fractions of the run whole epochs, and choose a strategy that follows phases."""
    phases, trainer = config.get("phases", {}), config["trainer"]
    if phases.get("steps"):
        phases["steps"] = resolved_steps(phases["steps"], trainer["max_epochs"])
    resolve_strategy(config)
    return config


def resolve_auto(config: Config) -> Config:
    """Replace every ``auto`` that depends on the machine, so that the report says what was run."""
    trainer = config["trainer"]
    if trainer["accelerator"] == "auto":
        trainer["accelerator"] = "gpu" if torch.cuda.is_available() else "cpu"
    if trainer["precision"] == "auto":
        trainer["precision"] = auto_precision(trainer["accelerator"])
    if config["optimizer"].get("fused") == "auto":
        # Lightning clips no gradients of such an optimizer under any mixed precision, and under
        # 16-mixed shows them to the callbacks as scaled, and fails where a step has none.
        precision = str(trainer["precision"])
        clips = "mixed" in precision and trainer["gradient_clip_val"] is not None
        config["optimizer"]["fused"] = not clips and precision != "16-mixed"
    if config["channels_last"] == "auto":
        config["channels_last"] = trainer["precision"] == "bf16-mixed"
    if "pin_memory" in config["data"]:
        config["data"]["pin_memory"] = trainer["accelerator"] == "gpu"
    return config


def has_target(config: Config) -> bool:
    """Return whether a composed configuration's data name a target."""
    allowed = [*ALLOWED, *config["allow"]]
    data = {**config, "data": dict(config["data"])}
    return resolve_target(data, allowed)["data"].get("target") is not None


def resolve_target(config: Config, allowed: list[str]) -> Config:
    """Replace a target that names nothing by null where the data set means that by it."""
    data = config["data"]
    cls, _ = find_class(str(data.get("_target_")), "data", allowed)
    target = data.get("target")
    if isinstance(target, Mapping) and hasattr(cls, "no_target") and cls.no_target(target):
        data["target"] = None
    return config


def resolve_strategy(config: Config) -> None:
    """Choose a strategy that lets parameters rest where some do."""
    trainer = config["trainer"]
    if sharded(trainer):
        if config["cache"]["features"] == "auto":  # they would be computed by divided networks
            config["cache"]["features"] = "off"
        if config["optimizer"]["_target_"].endswith(".SGD"):
            config["optimizer"]["fused"] = False  # torch has no fused SGD for divided weights
    elif config.get("phases", {}).get("steps") or may_rest(config):
        strategy = trainer["strategy"]
        strategy = "ddp" if strategy == "auto" and not alone(trainer) else strategy
        if isinstance(strategy, str):
            trainer["strategy"] = STRATEGIES.get(strategy, strategy)
