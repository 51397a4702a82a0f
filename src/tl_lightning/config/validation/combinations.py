"""Checks of combinations of settings that are each valid on their own."""

from __future__ import annotations

from tl_lightning.config.instantiate import ALLOWED, find_class
from tl_lightning.config.validation.data import feature_problems, input_problems, mixing_keys
from tl_lightning.config.validation.methods import method_problems, oracle_problems
from tl_lightning.config.validation.phases import step_problems
from tl_lightning.config.validation.tasks import task_problems
from tl_lightning.distributed.strategy import follows, sharded
from tl_lightning.selection.rules import SELECTIONS
from tl_lightning.types import Config

__all__ = ["pair_problems", "phase_problems"]


def pair_problems(config: Config) -> list[str]:
    """Return the conflicts between nodes that are each valid on their own."""
    problems = []
    model, _ = find_class(config["model"]["_target_"], "model", [*ALLOWED, *config["allow"]])
    allowed = [*ALLOWED, *config["allow"]]
    name, needs = config["model"]["name"], {*model.train_on, model.learn_from}
    target = config["data"].get("target")
    if model.learn_from == "target":
        problems += oracle_problems(config)
    if "target" in needs and target is None:
        data, _ = find_class(config["data"]["_target_"], "data", [*ALLOWED, *config["allow"]])
        usual = "domain=<name>" if getattr(data, "has_domains", False) else "root=<folder>"
        key = getattr(data, "target_key", usual)
        # A dataset with an optional target has no default to keep.
        optional = getattr(data, "target_optional", False)
        verb = "adapts to" if model.learn_from == "source" else "learns from"
        keep = "" if optional else ", keep the dataset's default data.target,"
        problems.append(
            f"model={name} {verb} a target, but data.target=null; set data.target.{key}"
            f"{keep} or set model=source_only"
        )
    rule = SELECTIONS[config["selection"]]
    if rule.needs_target and target is None:
        problems.append(
            f"selection={config['selection']} scores target samples, but data.target=null; "
            "set selection=source_val"
        )
    if str(rule.monitor).startswith("validator/") and not (config.get("callbacks") or {}).get(
        "validators"
    ):
        problems.append(
            f"selection={config['selection']} needs a score of callbacks.validators, which is not "
            "enabled; set callbacks=default, or selection=source_val"
        )
    if config["track_target"] and target is None:
        problems.append(
            "track_target=true logs accuracy on the target, but data.target=null; set "
            "track_target=false"
        )
    problems += input_problems(config, allowed)
    problems += feature_problems(config["cache"], config["data"], name)
    mixed = mixing_keys(config["data"])
    if config["method"] and mixed:
        problems.append(
            f"data.{mixed[0]}={config['data'][mixed[0]]} mixes labels, which is not supported with "
            f"adaptation methods; set data.{mixed[0]}=0, or use a model without methods"
        )
    problems += method_problems(config, model) + task_problems(config, model)
    start = ((config.get("callbacks") or {}).get("weight_averaging") or {}).get("start_epoch", 0)
    epochs = config["trainer"]["max_epochs"]
    if epochs is not None and start >= epochs > 0:
        problems.append(
            f"callbacks.weight_averaging.start_epoch={start} is after the last epoch of "
            f"trainer.max_epochs={epochs} (epochs count from 0); set "
            f"callbacks.weight_averaging.start_epoch={epochs - 1} or less"
        )
    every = config["checkpointing"]["every_n_epochs"]
    if epochs is not None and every > epochs > 0:
        problems.append(
            f"checkpointing.every_n_epochs={every} saves no model within trainer.max_epochs="
            f"{epochs}; set checkpointing.every_n_epochs={epochs} or less"
        )
    lora = config["backbone"].get("lora") or {}
    if lora.get("rank") and config["model"]["_target_"].endswith(".FeatureExtraction"):
        problems.append(
            f"model={name} freezes the backbone, but backbone.lora.rank={lora['rank']} adds "
            "trainable weights to it; set model=fine_tuning or backbone.lora.rank=0"
        )
    return problems


def phase_problems(config: Config) -> list[str]:
    """Return the problems of ``phases``; layer names are checked once the backbone is built."""
    steps = config.get("phases", {}).get("steps")
    if not steps:
        return []
    trainer, strategy = config["trainer"], config["trainer"]["strategy"]
    problems = step_problems(steps, trainer["max_epochs"], config["optimizer"]["lr"])
    model, _ = find_class(config["model"]["_target_"], "model", [*ALLOWED, *config["allow"]])
    if not getattr(model, "takes_phases", True):
        problems.append(
            f"model={config['model']['name']} never trains its backbone, but phases.steps has "
            f"{len(steps)} step(s); set phases=none or model=fine_tuning"
        )
    if not follows(strategy) and not sharded(trainer):
        problems.append(
            f"trainer.strategy={strategy} is not supported with phases, which freeze and unfreeze "
            "layers during the run; set trainer.strategy=ddp"
        )
    return problems
