"""From a checked configuration to its parts: data, model, trainer.

The only file that instantiates configuration nodes; everything
below takes typed arguments.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch

from tl_lightning.callbacks.console_log import EpochLines
from tl_lightning.callbacks.model_checkpoint import SelectionCheckpoint
from tl_lightning.callbacks.phases import FollowPhases
from tl_lightning.callbacks.report_collector import Collect
from tl_lightning.checkpoints.io import AtomicCheckpointIO
from tl_lightning.checkpoints.warm_start import load_backbone, load_model, restored_from
from tl_lightning.config.allowlist import stored_faults
from tl_lightning.config.instantiate import ALLOWED, find_class, make
from tl_lightning.config.validation.classes import adapts
from tl_lightning.data.cache.images import CacheSettings
from tl_lightning.data.datamodules.base import TransferData
from tl_lightning.data.datamodules.vector import VectorData
from tl_lightning.distributed.strategy import lr_factor, processes, with_timeout
from tl_lightning.errors import ConfigError
from tl_lightning.models.base import TransferModule
from tl_lightning.models.phases import Phases
from tl_lightning.tasks.auxiliary.base import Facts, FurtherTask
from tl_lightning.tasks.auxiliary.labels import attach_labels
from tl_lightning.tasks.classification import Classification
from tl_lightning.training.feature_plan import Plan, plan
from tl_lightning.types import Config
from tl_lightning.utils.seeding import mix
from tl_lightning.utils.signals import take_signals

__all__ = [
    "Parts",
    "build",
    "build_data",
    "build_module",
    "further_facts",
    "make_trainer",
    "plan_features",
]


@dataclass
class Parts:
    """What a configuration builds."""

    data: TransferData
    module: TransferModule
    trainer: L.Trainer
    collect: Collect
    features: Plan


def make_trainer(config: Config, node: Mapping[str, Any], **given: Any) -> L.Trainer:
    """Build a trainer whose ranks do not wait for one another for ever."""
    keys = dict(node)
    seconds = keys.pop("timeout_s", None)
    if keys["strategy"] == "auto" and processes(node) > 1 and not hasattr(sys, "ps1"):
        keys["strategy"] = "ddp"  # what Lightning takes then, but for notebooks
    keys["strategy"] = with_timeout(keys["strategy"], seconds)
    trainer: L.Trainer = make(keys, config, **given)
    return trainer


def build_data(config: Config) -> TransferData:
    """Build the data module; it has not looked at the disk yet."""
    data: TransferData = make(config["data"], config)
    return data


def build_module(
    config: Config,
    classes: tuple[str, ...],
    pretrained: bool = True,
    class_counts: Sequence[int] | None = None,
    further: Mapping[str, Facts] | None = None,
    restored_by: Mapping[str, Any] | None = None,
) -> TransferModule:
    """Build the model for the given classes.

    Args:
        config: A checked configuration.
        classes: Class names in the order of the labels.
        pretrained: False where a checkpoint will be loaded anyway: nothing is downloaded then.
        class_counts: Source training pictures of each class, where the data are at hand.
        further: What is known of the further tasks' labels, see :func:`further_facts`.
        restored_by: Settings of the backbone that its checkpoint carries.
    """
    seed = config["seed"]
    # Every part starts from its own seed: another discriminator leaves the backbone as it was.
    torch.manual_seed(mix(seed, 1))
    backbone = _backbone(config, pretrained, restored_by or {})
    torch.manual_seed(mix(seed, 2))
    sizes = {"num_classes": len(classes)}
    head = make(config["head"], config, in_features=backbone.out_features, **sizes)
    loss = make(_loss(config), config, class_counts=class_counts, **sizes)
    task = Classification(head=head, loss=loss, **sizes)
    if config.get("init") and pretrained:
        load_model(backbone, task, Path(config["init"]), config, classes)
    extra = _adapters(config, backbone, task) if adapts(config) else {}
    # Last of all, for some keep the weights that the run starts from.
    regularizers = {
        name: make(regularizer, config, backbone=backbone, task=task)
        for name, regularizer in config.get("regularizer", {}).items()
    }
    module: TransferModule = make(
        config["model"],
        config,
        backbone=backbone,
        task=task,
        optimizer=lambda groups: make(config["optimizer"], config, params=groups),
        lr=config["optimizer"]["lr"] * lr_factor(config),
        schedule=make(config["scheduler"], config),
        **_phases(config),
        seed=seed,
        channels_last=config["channels_last"],
        regularizers=regularizers,
        tasks=_tasks(config, task, further or {}),
        balance=config.get("balance", "fixed"),
        saved={"config": config, "classes": list(classes), "tasks": dict(further or {})},
        **extra,
    )
    return module


def _adapters(config: Config, backbone: Any, task: Classification) -> Config:
    """Build the methods, each from its own seed, and let them change the network."""
    sizes = {"in_features": task.head.out_features, "num_classes": task.num_classes}
    adapters = {}
    for number, (name, node) in enumerate(config["adapter"].items()):
        torch.manual_seed(mix(config["seed"], 3, number))
        adapters[name] = make(node, config, **sizes)
        adapters[name].prepare(backbone, task)
    return {"adapters": adapters}


def _tasks(
    config: Config, task: Classification, further: Mapping[str, Facts]
) -> dict[str, FurtherTask]:
    """Build the further tasks, each from its own seed."""
    tasks = {}
    for number, (name, facts) in enumerate(further.items()):
        torch.manual_seed(mix(config["seed"], 4, number))
        node = config["tasks"][name]
        tasks[name] = make(node, config, in_features=task.head.out_features, facts=facts)
    return tasks


def further_facts(
    config: Config, data: TransferData, known: Mapping[str, Facts] | None = None
) -> dict[str, Facts]:
    """Put the labels of the further tasks into the data; return what is known of them.

    Args:
        config: A checked configuration.
        data: It has been looked at.
        known: The facts of the run that a checkpoint comes from.
    """
    allowed = [*ALLOWED, *(config.get("allow") or [])]
    kinds = {
        name: (find_class(node["_target_"], f"tasks.{name}", allowed)[0], node)
        for name, node in (config.get("tasks") or {}).items()
    }
    return attach_labels(data, kinds, known)


def _loss(config: Config) -> Config:
    if "loss" in config:
        node: Config = config["loss"]
        return node
    # A checkpoint from before there was a choice.
    known = {"label_smoothing": config["label_smoothing"], "class_weights": None}
    return {"_target_": "tl_lightning.losses.classification.CrossEntropy", **known}


def _phases(config: Config) -> Config:
    if "phases" not in config:  # a checkpoint from before there were any
        return {"phases": Phases(schedule="run", steps=[]), "layer_decay": 1.0}
    node, factor = dict(config["phases"]), lr_factor(config)
    node["steps"] = [
        {**step, "lr": step["lr"] * factor} if step.get("lr") is not None else step
        for step in node["steps"]
    ]
    return {"phases": make(node, config), "layer_decay": config["layer_decay"]}


#: What a checkpoint may say anew of its backbone.
_RESTORED = ("network", "tokenizer")
_UNTRAINED = {"pretrained": False, "weights": None}


def _backbone(config: Config, pretrained: bool, restored_by: Mapping[str, Any]) -> Any:
    """Build the backbone: with its published weights, with those of a run of ours, or with none."""
    node = dict(config["backbone"])
    own = node.pop("checkpoint", None)
    own = own if pretrained else None  # a checkpoint that is about to be loaded has all weights
    init = config.get("init") if pretrained else None  # and so has what a run starts from
    lora = node.pop("lora", None)
    kept = restored_by or (restored_from(Path(own)) if own else {})
    if init and not own:
        kept = restored_from(Path(init), "init", node)
    if faults := stored_faults({"restored_by": kept}):  # settings, no class among them
        raise ConfigError(faults)
    node |= {key: kept[key] for key in _RESTORED if key in kept}
    if own or init or not pretrained:
        node |= {key: value for key, value in _UNTRAINED.items() if key in node}
    backbone = make(node, config)
    if own:
        load_backbone(backbone, Path(own), config["backbone"])
    if lora:
        make(lora, config).apply(backbone)
    return backbone


def _compiler(wish: bool | str) -> dict[str, str]:
    return {} if wish is True else {"backend": str(wish)}


def plan_features(config: Config, module: TransferModule, data: TransferData) -> Plan:
    """Decide what of a frozen network is run once."""
    numerics = {key: config["trainer"][key] for key in ("precision", "accelerator")}
    return plan(module, data, CacheSettings(**config["cache"]), numerics)


def build(config: Config, run_dir: Path) -> Parts:
    """Build everything that a checked configuration describes; the data has been looked at.

    Raises:
        DataError: If the data is not what the configuration says.
        CheckpointError: If pretrained weights can be neither found nor downloaded.
    """
    data = build_data(config)
    allowed = [*ALLOWED, *(config.get("allow") or [])]
    data.learn_from = find_class(config["model"]["_target_"], "model", allowed)[0].learn_from
    data.discover()
    if isinstance(data, VectorData) and config["backbone"].get("in_features", 0) is None:
        config["backbone"]["in_features"] = data.width  # what a checkpoint must know
    L.seed_everything(config["seed"], workers=True, verbose=False)
    further = further_facts(config, data)
    module = build_module(config, data.classes, True, data.class_counts(), further)
    module.inputs = data.learned
    peeks = config["selection"] == "oracle" or config["track_target"]
    peeks = peeks or module.learn_from == "target"
    labels = ("source", "target") if peeks else ("source",)
    strong = "target_strong" in getattr(module, "needs", ())
    data.attach(module.backbone.input_spec, module.train_on, labels, strong)
    features = plan_features(config, module, data)
    # Pictures that pass the network once are read once, or as often as they have views.
    passes = (config["trainer"]["max_epochs"] or 1000) if features.mode == "off" else 1
    data.cache(CacheSettings(**config["cache"]), max(passes, features.views or 1))
    if config["compile"]:
        # In place, so that the names of the weights stay as they are.
        module.backbone.compile(**_compiler(config["compile"]))
    collect = Collect(**config["report"], seed=config["seed"])
    kept = dict(config["checkpoint"])
    keep_last = kept.pop("keep_last")
    callbacks: list[L.Callback] = [
        *([FollowPhases()] if module.phases.steps else []),
        SelectionCheckpoint(
            dirpath=str(run_dir / "checkpoints"),
            selection=config["selection"],
            **kept,
        ),
        *(make(node, config) for node in (config.get("callbacks") or {}).values() if node),
        collect,
    ]
    node = dict(config["trainer"])
    node["enable_progress_bar"] = any("ProgressBar" in type(c).__name__ for c in callbacks)
    if not node["enable_progress_bar"]:
        callbacks.append(EpochLines())
    loggers = [
        make(n, config, save_dir=str(run_dir)) for n in (config.get("logger") or {}).values() if n
    ]
    trainer = make_trainer(
        config,
        node,
        default_root_dir=str(run_dir),
        callbacks=callbacks,
        logger=loggers,
        plugins=[AtomicCheckpointIO(keep_last=keep_last)],
        use_distributed_sampler=False,  # our own samplers deal to ranks
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    take_signals(trainer)
    return Parts(data, module, trainer, collect, features)
