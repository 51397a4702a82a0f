"""A configuration before anything is built: every fault at once, every ``auto`` made plain."""

from __future__ import annotations

import copy
import typing
from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from tl_lightning.callbacks.checkpoint import SELECTIONS
from tl_lightning.checks import ALLOWED, check_nodes, find_class, fits, words
from tl_lightning.data.cache import CacheSettings
from tl_lightning.errors import ConfigError, nearest
from tl_lightning.runtime import auto_precision

__all__ = ["GIVEN", "Config", "check"]

Config = dict[str, Any]

#: What the code passes to a node besides its own keys.
GIVEN = {
    "model": {"backbone", "task", "optimizer", "lr", "schedule", "seed", "channels_last", "saved",
              "adapters", "regularizers"},
    "head": {"in_features", "num_classes"},
    "loss": {"num_classes", "class_counts"},
    "adapter.*": {"in_features", "num_classes"},
    "regularizer.*": {"backbone", "task"},
    "optimizer": {"params"},
    "logger.*": {"save_dir"},
}  # fmt: skip


def check(cfg: DictConfig | Mapping[str, Any]) -> Config:
    """Return the configuration as plain containers, or raise all of its faults at once.

    Touches no data and no network.

    Raises:
        ConfigError: Lists every fault found.
    """
    plain: Any = OmegaConf.to_container(cfg, resolve=True) if OmegaConf.is_config(cfg) else cfg
    config: Config = copy.deepcopy(dict(plain))
    allowed = [*ALLOWED, *(config.get("allow") or [])]
    faults = _top_level_faults(config) + _device_faults(config["trainer"])
    config = _resolve_target(_resolve_auto(config), allowed)
    faults += check_nodes(config, GIVEN, allowed)
    if not faults:
        faults = _range_faults(config, allowed) + _pair_faults(config)
    if faults:
        raise ConfigError(faults)
    return config


def _top_level_faults(config: Config) -> list[str]:
    faults = []
    if isinstance(config["seed"], bool) or not isinstance(config["seed"], int):
        faults.append(f"seed={config['seed']} is not a whole number; type seed=0")
    if config["selection"] not in SELECTIONS:
        hint = nearest(str(config["selection"]), SELECTIONS)
        faults.append(f"selection={config['selection']} is no rule; {hint}")
    bracket = config["bracket"]
    known = {"source_only", "joint_bn"}
    if bracket != "auto" and not (isinstance(bracket, list) and set(bracket) <= known):
        faults.append(
            f"bracket={bracket} is neither auto nor a list; type bracket=[source_only,joint_bn]"
        )
    hints = typing.get_type_hints(CacheSettings)
    faults += [
        f"cache.{key}={value} is not {words(hints[key])}; type cache.{key}=<value>"
        for key, value in config["cache"].items()
        if not fits(value, hints[key])
    ]
    if config["channels_last"] not in ("auto", True, False):
        faults.append(f"channels_last={config['channels_last']} is neither auto nor true or false")
    return faults


def _range_faults(config: Config, allowed: list[str]) -> list[str]:
    """Return which settings are out of their range, as the classes that know it say."""
    nodes = {"loss": config["loss"], "backbone.lora": config["backbone"].get("lora")}
    for group in ("regularizer", "callbacks"):
        nodes |= {f"{group}.{name}": node for name, node in (config.get(group) or {}).items()}
    faults: list[str] = []
    for where, node in nodes.items():
        cls: Any = find_class(node["_target_"], where, allowed)[0] if node else None
        if hasattr(cls, "faults"):
            faults += cls.faults(where, node)
    return faults


def _pair_faults(config: Config) -> list[str]:
    """Return what is wrong between parts that are right by themselves."""
    faults = []
    model, _ = find_class(config["model"]["_target_"], "model", [*ALLOWED, *config["allow"]])
    name, needs = config["model"]["name"], model.train_on
    target = config["data"].get("target")
    if "target" in needs and target is None:
        data, _ = find_class(config["data"]["_target_"], "data", [*ALLOWED, *config["allow"]])
        usual = "domain=<name>" if getattr(data, "has_domains", False) else "root=<folder>"
        key = getattr(data, "target_key", usual)
        # Where a data set starts without a target there is none to leave as it is.
        optional = getattr(data, "target_optional", False)
        own = "" if optional else " or leave data.target as the data set has it,"
        faults.append(
            f"model={name} adapts to a target, but data.target=null; type data.target.{key}"
            f"{own} or type model=source_only"
        )
    rule = SELECTIONS[config["selection"]]
    if rule.needs_target and target is None:
        faults.append(
            f"selection={config['selection']} scores target pictures, but data.target=null; "
            "type selection=source_val"
        )
    mixed = [name for name, alpha in config["data"]["mix"].items() if alpha]
    if config["adapter"] and mixed:
        faults.append(
            f"data.mix.{mixed[0]} makes shares of labels, which adapters cannot take; "
            f"type data.mix.{mixed[0]}=0, or a model without adapters"
        )
    if config["adapter"] and "target" not in needs:
        names = ",".join(config["adapter"])
        faults.append(f"model={name} takes no adapter, got [{names}]; type model=domain_adaptation")
    start = ((config.get("callbacks") or {}).get("average") or {}).get("start_epoch", 0)
    epochs = config["trainer"]["max_epochs"]
    if epochs is not None and start >= epochs > 0:
        faults.append(
            f"callbacks.average.start_epoch={start} is after the last epoch of trainer.max_epochs="
            f"{epochs} (counted from 0); type callbacks.average.start_epoch={epochs - 1} or less"
        )
    lora = config["backbone"].get("lora") or {}
    if lora.get("rank") and config["model"]["_target_"].endswith(".FeatureExtraction"):
        faults.append(
            f"model={name} freezes the backbone and backbone.lora.rank={lora['rank']} would learn "
            "in it; type model=fine_tuning or backbone.lora.rank=0"
        )
    return faults


def _device_faults(trainer: Config) -> list[str]:
    accelerator, devices = trainer["accelerator"], trainer["devices"]
    present = torch.cuda.device_count()
    if accelerator in ("gpu", "cuda") and not present:
        return [
            f"trainer.accelerator={accelerator} with trainer.devices={devices}, but this machine "
            "has no GPU that torch can use; type trainer=cpu or trainer=auto"
        ]
    if accelerator in ("gpu", "cuda") and isinstance(devices, int) and devices > present:
        return [
            f"trainer.devices={devices}, but this machine has {present} GPU(s); "
            f"type trainer.devices={present}"
        ]
    return []


def _resolve_auto(config: Config) -> Config:
    """Replace every ``auto`` that depends on the machine, so that the report says what was run."""
    trainer = config["trainer"]
    if trainer["accelerator"] == "auto":
        trainer["accelerator"] = "gpu" if torch.cuda.is_available() else "cpu"
    if trainer["precision"] == "auto":
        trainer["precision"] = auto_precision(trainer["accelerator"])
    if config["channels_last"] == "auto":
        config["channels_last"] = trainer["precision"] == "bf16-mixed"
    if "pin_memory" in config["data"]:
        config["data"]["pin_memory"] = trainer["accelerator"] == "gpu"
    return config


def _resolve_target(config: Config, allowed: list[str]) -> Config:
    """Replace a target that names nothing by null where the data set means that by it."""
    data = config["data"]
    cls, _ = find_class(str(data.get("_target_")), "data", allowed)
    target = data.get("target")
    if isinstance(target, Mapping) and hasattr(cls, "no_target") and cls.no_target(target):
        data["target"] = None
    return config
