"""A configuration before anything is built: every fault at once, every ``auto`` made plain."""

from __future__ import annotations

import copy
import typing
from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from tl_lightning.adaptation_faults import (
    adaptation_faults,
    bracket_faults,
    oracle_faults,
    rule_of,
)
from tl_lightning.callbacks.checkpoint import checkpoint_faults
from tl_lightning.callbacks.collect import projection_faults
from tl_lightning.callbacks.selection import SELECTIONS
from tl_lightning.checks import ALLOWED, check_nodes, find_class, fits, words
from tl_lightning.data.cache import CacheSettings
from tl_lightning.errors import ConfigError, nearest
from tl_lightning.faults import timeout_faults
from tl_lightning.input_faults import feature_faults, input_faults
from tl_lightning.modules.phases import resolved_steps, step_faults
from tl_lightning.runtime import auto_precision
from tl_lightning.shape_faults import number_faults, shape_faults
from tl_lightning.strategies import (
    alone,
    follows,
    resolve_strategy,
    sharded,
    strategy_faults,
)
from tl_lightning.task_faults import name_faults, task_faults
from tl_lightning.trainer_faults import trainer_faults

__all__ = ["GIVEN", "TAKEN", "Config", "check", "has_target"]

Config = dict[str, Any]

#: What the code passes to a node besides its own keys.
GIVEN = {
    "model": {"backbone", "task", "optimizer", "lr", "schedule", "phases", "layer_decay", "seed",
              "channels_last", "saved", "adapters", "regularizers", "tasks", "balance"},
    "head": {"in_features", "num_classes"},
    "loss": {"num_classes", "class_counts"},
    "adapter.*": {"in_features", "num_classes", "inputs"},
    "regularizer.*": {"backbone", "task"},
    "tasks.*": {"in_features", "facts"},
    "optimizer": {"params"},
    "logger.*": {"save_dir"},
}  # fmt: skip

#: What the code takes from a node before it builds the class.
TAKEN = {"backbone": {"checkpoint", "lora"}, "trainer": {"timeout_s"}}


def check(cfg: DictConfig | Mapping[str, Any]) -> Config:
    """Return the configuration as plain containers, or raise all of its faults at once.

    Touches no data and no network.

    Raises:
        ConfigError: Lists every fault found.
    """
    plain: Any = OmegaConf.to_container(cfg, resolve=True) if OmegaConf.is_config(cfg) else cfg
    config: Config = copy.deepcopy(dict(plain))
    if faults := shape_faults(config):
        raise ConfigError(faults)
    allowed = [*ALLOWED, *(config.get("allow") or [])]
    faults = _top_level_faults(config) + _device_faults(config["trainer"])
    faults += number_faults(config)
    config = _resolve_target(_resolve_auto(config), allowed)
    faults += check_nodes(config, GIVEN, allowed, TAKEN) + name_faults(config)
    if not faults:
        config["selection"] = rule_of(config)
    if not faults:
        faults = _range_faults(config, allowed) + _pair_faults(config) + _phase_faults(config)
        faults += strategy_faults(config)
        faults += trainer_faults(config, SELECTIONS[config["selection"]].monitor)
    if faults:
        raise ConfigError(faults)
    return _resolve_phases(config)


def _top_level_faults(config: Config) -> list[str]:
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


def _range_faults(config: Config, allowed: list[str]) -> list[str]:
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


def _pair_faults(config: Config) -> list[str]:
    """Return what is wrong between parts that are right by themselves."""
    faults = []
    model, _ = find_class(config["model"]["_target_"], "model", [*ALLOWED, *config["allow"]])
    allowed = [*ALLOWED, *config["allow"]]
    name, needs = config["model"]["name"], {*model.train_on, model.learn_from}
    target = config["data"].get("target")
    if model.learn_from == "target":
        faults += oracle_faults(config)
    if "target" in needs and target is None:
        data, _ = find_class(config["data"]["_target_"], "data", [*ALLOWED, *config["allow"]])
        usual = "domain=<name>" if getattr(data, "has_domains", False) else "root=<folder>"
        key = getattr(data, "target_key", usual)
        # Where a data set starts without a target there is none to leave as it is.
        optional = getattr(data, "target_optional", False)
        verb = "adapts to" if model.learn_from == "source" else "learns from"
        own = "" if optional else " or leave data.target as the data set has it,"
        faults.append(
            f"model={name} {verb} a target, but data.target=null; type data.target.{key}"
            f"{own} or type model=source_only"
        )
    rule = SELECTIONS[config["selection"]]
    if rule.needs_target and target is None:
        faults.append(
            f"selection={config['selection']} scores target pictures, but data.target=null; "
            "type selection=source_val"
        )
    if str(rule.monitor).startswith("validator/") and not (config.get("callbacks") or {}).get(
        "validators"
    ):
        faults.append(
            f"selection={config['selection']} reads a score of callbacks.validators, which is not "
            "there; type callbacks=default, or selection=source_val"
        )
    if config["track_target"] and target is None:
        faults.append(
            "track_target=true logs accuracy on the target, but data.target=null; type "
            "track_target=false"
        )
    faults += input_faults(config, allowed)
    faults += feature_faults(config["cache"], config["data"], name)
    mixed = [name for name, alpha in config["data"].get("mix", {}).items() if alpha]
    if config["adapter"] and mixed:
        faults.append(
            f"data.mix.{mixed[0]} makes shares of labels, which adapters cannot take; "
            f"type data.mix.{mixed[0]}=0, or a model without adapters"
        )
    faults += adaptation_faults(config, model) + task_faults(config, model)
    start = ((config.get("callbacks") or {}).get("average") or {}).get("start_epoch", 0)
    epochs = config["trainer"]["max_epochs"]
    if epochs is not None and start >= epochs > 0:
        faults.append(
            f"callbacks.average.start_epoch={start} is after the last epoch of trainer.max_epochs="
            f"{epochs} (counted from 0); type callbacks.average.start_epoch={epochs - 1} or less"
        )
    every = config["checkpoint"]["every_n_epochs"]
    if epochs is not None and every > epochs > 0:
        faults.append(
            f"checkpoint.every_n_epochs={every} keeps no model of a run of trainer.max_epochs="
            f"{epochs}; type checkpoint.every_n_epochs={epochs} or less"
        )
    lora = config["backbone"].get("lora") or {}
    if lora.get("rank") and config["model"]["_target_"].endswith(".FeatureExtraction"):
        faults.append(
            f"model={name} freezes the backbone and backbone.lora.rank={lora['rank']} would learn "
            "in it; type model=fine_tuning or backbone.lora.rank=0"
        )
    return faults


def _phase_faults(config: Config) -> list[str]:
    """Return what is wrong with the phases; names of layers are known only once they are built."""
    steps = config.get("phases", {}).get("steps")
    if not steps:
        return []
    trainer, strategy = config["trainer"], config["trainer"]["strategy"]
    faults = step_faults(steps, trainer["max_epochs"], config["optimizer"]["lr"])
    model, _ = find_class(config["model"]["_target_"], "model", [*ALLOWED, *config["allow"]])
    if not getattr(model, "takes_phases", True):
        faults.append(
            f"model={config['model']['name']} never lets its backbone learn, but phases.steps has "
            f"{len(steps)} steps; type phases=none or model=fine_tuning"
        )
    if not follows(strategy) and not sharded(trainer):
        faults.append(
            f"trainer.strategy={strategy} cannot follow phases, which change in mid-run what "
            "learns; type trainer.strategy=ddp"
        )
    return faults


def _resolve_phases(config: Config) -> Config:
    """Make fractions of the run whole epochs, and choose a strategy that follows phases."""
    phases, trainer = config.get("phases", {}), config["trainer"]
    if phases.get("steps"):
        phases["steps"] = resolved_steps(phases["steps"], trainer["max_epochs"])
    resolve_strategy(config)
    return config


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
    return _resolve_target(data, allowed)["data"].get("target") is not None


def _resolve_target(config: Config, allowed: list[str]) -> Config:
    """Replace a target that names nothing by null where the data set means that by it."""
    data = config["data"]
    cls, _ = find_class(str(data.get("_target_")), "data", allowed)
    target = data.get("target")
    if isinstance(target, Mapping) and hasattr(cls, "no_target") and cls.no_target(target):
        data["target"] = None
    return config
