"""Checks of settings that are right alone and wrong together."""

from __future__ import annotations

from tl_lightning.config.instantiate import ALLOWED, find_class
from tl_lightning.config.validation.data import feature_faults, input_faults
from tl_lightning.config.validation.methods import adaptation_faults, oracle_faults
from tl_lightning.config.validation.phases import step_faults
from tl_lightning.config.validation.tasks import task_faults
from tl_lightning.distributed.strategy import follows, sharded
from tl_lightning.selection.rules import SELECTIONS
from tl_lightning.types import Config

__all__ = ["pair_faults", "phase_faults"]


def pair_faults(config: Config) -> list[str]:
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


def phase_faults(config: Config) -> list[str]:
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
