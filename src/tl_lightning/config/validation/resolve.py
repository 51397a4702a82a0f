"""Resolution of ``auto`` settings to concrete values."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from tl_lightning.config.instantiate import ALLOWED, find_class
from tl_lightning.config.validation.classes import find_unused_parameters, is_adaptation
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
    """Return the selection rule in use; for the choice of ``auto`` see docs/measurements.md.

    An adapted model and its baselines get the same rule, so that they are comparable.
    """
    if config["selection"] != "auto":
        return str(config["selection"])
    name, scored = config["model"]["name"], (config.get("callbacks") or {}).get("validators")
    if not scored or not config["data"].get("target"):
        return "last"
    if name == "oracle":  # no other score reflects what it learns
        return "oracle"
    return "bnm" if is_adaptation(config) or name == "source_only" else "last"


def resolve_phases(config: Config) -> Config:
    """Convert fractions of the run to epochs, and choose a strategy that supports phases."""
    phases, trainer = config.get("phases", {}), config["trainer"]
    if phases.get("steps"):
        phases["steps"] = resolved_steps(phases["steps"], trainer["max_epochs"])
    resolve_strategy(config)
    return config


def resolve_auto(config: Config) -> Config:
    """Replace every ``auto`` that depends on the machine, so that the report is explicit."""
    trainer = config["trainer"]
    if trainer["accelerator"] == "auto":
        trainer["accelerator"] = "gpu" if torch.cuda.is_available() else "cpu"
    if trainer["precision"] == "auto":
        trainer["precision"] = auto_precision(trainer["accelerator"])
    if config["optimizer"].get("fused") == "auto":
        # With a fused optimizer, Lightning does not clip gradients under mixed precision. Under
        # 16-mixed it also passes scaled gradients to the callbacks, and fails in a step without
        # gradients.
        precision = str(trainer["precision"])
        clips = "mixed" in precision and trainer["gradient_clip_val"] is not None
        config["optimizer"]["fused"] = not clips and precision != "16-mixed"
    if config["channels_last"] == "auto":
        config["channels_last"] = trainer["precision"] == "bf16-mixed"
    if "pin_memory" in config["data"]:
        config["data"]["pin_memory"] = trainer["accelerator"] == "gpu"
    return config


def has_target(config: Config) -> bool:
    """Return whether the data of a composed configuration have a target."""
    allowed = [*ALLOWED, *config["allow"]]
    data = {**config, "data": dict(config["data"])}
    return resolve_target(data, allowed)["data"].get("target") is not None


def resolve_target(config: Config, allowed: list[str]) -> Config:
    """Set ``data.target`` to null if it is empty and the dataset takes that as no target."""
    data = config["data"]
    cls, _ = find_class(str(data.get("_target_")), "data", allowed)
    target = data.get("target")
    if isinstance(target, Mapping) and hasattr(cls, "no_target") and cls.no_target(target):
        data["target"] = None
    return config


def resolve_strategy(config: Config) -> None:
    """Choose a strategy that allows unused parameters if there may be any."""
    trainer = config["trainer"]
    if sharded(trainer):
        if config["cache"]["features"] == "auto":  # a sharded network cannot compute them
            config["cache"]["features"] = "off"
        if config["optimizer"]["_target_"].endswith(".SGD"):
            config["optimizer"]["fused"] = False  # torch has no fused SGD for sharded weights
    elif config.get("phases", {}).get("steps") or find_unused_parameters(config):
        strategy = trainer["strategy"]
        strategy = "ddp" if strategy == "auto" and not alone(trainer) else strategy
        if isinstance(strategy, str):
            trainer["strategy"] = STRATEGIES.get(strategy, strategy)
