"""Construction of the data module, model and trainer from a checked configuration.

This is the only module that instantiates configuration nodes; the classes that it builds take typed
arguments.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch

from tl_lightning.callbacks.console_log import ConsoleLog
from tl_lightning.callbacks.model_checkpoint import SelectionCheckpoint
from tl_lightning.callbacks.phases import PhaseCallback
from tl_lightning.callbacks.report_collector import ReportCollector
from tl_lightning.checkpoints.io import AtomicCheckpointIO
from tl_lightning.checkpoints.warm_start import load_backbone, load_model, restored_from
from tl_lightning.config.allowlist import stored_problems
from tl_lightning.config.instantiate import ALLOWED, find_class, instantiate
from tl_lightning.config.validation.classes import is_adaptation
from tl_lightning.data.cache.images import CacheSettings
from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.data.datamodules.vector import VectorDataModule
from tl_lightning.distributed.strategy import lr_factor, processes, with_timeout
from tl_lightning.errors import ConfigError
from tl_lightning.models.base import TransferModule
from tl_lightning.models.phases import Phases
from tl_lightning.tasks.auxiliary.base import AuxiliaryTask, LabelInfo
from tl_lightning.tasks.auxiliary.labels import attach_labels
from tl_lightning.tasks.classification import Classification
from tl_lightning.training.feature_plan import Plan, plan
from tl_lightning.types import Config
from tl_lightning.utils.seeding import mix
from tl_lightning.utils.signals import take_signals

__all__ = [
    "Parts",
    "aux_label_info",
    "build",
    "build_data",
    "build_module",
    "make_trainer",
    "plan_features",
]


@dataclass
class Parts:
    """Objects built from a configuration."""

    data: TransferDataModule
    module: TransferModule
    trainer: L.Trainer
    collect: ReportCollector
    features: Plan


def make_trainer(config: Config, node: Mapping[str, Any], **given: Any) -> L.Trainer:
    """Build a trainer whose ranks wait for one another for at most ``timeout_s``."""
    keys = dict(node)
    seconds = keys.pop("timeout_s", None)
    if keys["strategy"] == "auto" and processes(node) > 1 and not hasattr(sys, "ps1"):
        keys["strategy"] = "ddp"  # what Lightning would choose, except in notebooks
    keys["strategy"] = with_timeout(keys["strategy"], seconds)
    trainer: L.Trainer = instantiate(keys, config, **given)
    return trainer


def build_data(config: Config) -> TransferDataModule:
    """Build the data module, without reading from disk yet."""
    data: TransferDataModule = instantiate(config["data"], config)
    return data


def build_module(
    config: Config,
    classes: tuple[str, ...],
    pretrained: bool = True,
    class_counts: Sequence[int] | None = None,
    aux_info: Mapping[str, LabelInfo] | None = None,
    restored_by: Mapping[str, Any] | None = None,
) -> TransferModule:
    """Build the model for the given classes.

    Args:
        config: A checked configuration.
        classes: Class names in the order of the labels.
        pretrained: False if a checkpoint is going to be loaded, so that nothing is downloaded.
        class_counts: Source training images per class, if the data are available.
        aux_info: Label information of the auxiliary tasks, see :func:`aux_label_info`.
        restored_by: Backbone settings stored in its checkpoint.
    """
    seed = config["seed"]
    # Each part has its own seed, so that another discriminator does not change the backbone.
    torch.manual_seed(mix(seed, 1))
    backbone = _backbone(config, pretrained, restored_by or {})
    torch.manual_seed(mix(seed, 2))
    sizes = {"num_classes": len(classes)}
    head = instantiate(config["head"], config, in_features=backbone.out_features, **sizes)
    loss = instantiate(_loss(config), config, class_counts=class_counts, **sizes)
    task = Classification(head=head, loss=loss, **sizes)
    if config.get("init") and pretrained:
        load_model(backbone, task, Path(config["init"]), config, classes)
    extra = _methods(config, backbone, task) if is_adaptation(config) else {}
    # Built last, as some keep a copy of the initial weights.
    regularizers = {
        name: instantiate(regularizer, config, backbone=backbone, task=task)
        for name, regularizer in config.get("regularizer", {}).items()
    }
    module: TransferModule = instantiate(
        config["model"],
        config,
        backbone=backbone,
        task=task,
        optimizer=lambda groups: instantiate(config["optimizer"], config, params=groups),
        lr=config["optimizer"]["lr"] * lr_factor(config),
        schedule=instantiate(config["scheduler"], config),
        **_phases(config),
        seed=seed,
        channels_last=config["channels_last"],
        regularizers=regularizers,
        aux_tasks=_aux_tasks(config, task, aux_info or {}),
        task_weighting=config.get("task_weighting", "fixed"),
        saved={"config": config, "classes": list(classes), "aux_tasks": dict(aux_info or {})},
        **extra,
    )
    return module


def _methods(config: Config, backbone: Any, task: Classification) -> Config:
    """Build the methods, each from its own seed, and let them modify the network."""
    sizes = {"in_features": task.head.out_features, "num_classes": task.num_classes}
    methods = {}
    for number, (name, node) in enumerate(config["method"].items()):
        torch.manual_seed(mix(config["seed"], 3, number))
        methods[name] = instantiate(node, config, **sizes)
        methods[name].modify_network(backbone, task)
    return {"methods": methods}


def _aux_tasks(
    config: Config, task: Classification, aux_info: Mapping[str, LabelInfo]
) -> dict[str, AuxiliaryTask]:
    """Build the auxiliary tasks, each from its own seed."""
    tasks = {}
    for number, (name, label_info) in enumerate(aux_info.items()):
        torch.manual_seed(mix(config["seed"], 4, number))
        node = config["aux_tasks"][name]
        tasks[name] = instantiate(
            node, config, in_features=task.head.out_features, label_info=label_info
        )
    return tasks


def aux_label_info(
    config: Config, data: TransferDataModule, known: Mapping[str, LabelInfo] | None = None
) -> dict[str, LabelInfo]:
    """Attach the labels of the auxiliary tasks to the data; return their label information.

    Args:
        config: A checked configuration.
        data: A data module after ``discover``.
        known: Label information of the run that a checkpoint comes from.
    """
    allowed = [*ALLOWED, *(config.get("allow") or [])]
    kinds = {
        name: (find_class(node["_target_"], f"aux_tasks.{name}", allowed)[0], node)
        for name, node in (config.get("aux_tasks") or {}).items()
    }
    return attach_labels(data, kinds, known)


def _loss(config: Config) -> Config:
    if "loss" in config:
        node: Config = config["loss"]
        return node
    # A checkpoint from before the loss could be chosen.
    known = {"label_smoothing": config["label_smoothing"], "class_weights": None}
    return {"_target_": "tl_lightning.losses.classification.CrossEntropy", **known}


def _phases(config: Config) -> Config:
    if "phases" not in config:  # a checkpoint from before phases existed
        return {"phases": Phases(schedule="run", steps=[]), "layer_decay": 1.0}
    node, factor = dict(config["phases"]), lr_factor(config)
    node["steps"] = [
        {**step, "lr": step["lr"] * factor} if step.get("lr") is not None else step
        for step in node["steps"]
    ]
    return {"phases": instantiate(node, config), "layer_decay": config["layer_decay"]}


#: Backbone settings that a checkpoint may override.
_RESTORED = ("network", "tokenizer")
_UNTRAINED = {"pretrained": False, "weights": None}


def _backbone(config: Config, pretrained: bool, restored_by: Mapping[str, Any]) -> Any:
    """Build the backbone: pretrained, warm-started from an earlier run, or randomly initialized."""
    node = dict(config["backbone"])
    checkpoint = node.pop("checkpoint", None)
    # Without pretrained, all weights come from a checkpoint that is loaded later.
    checkpoint = checkpoint if pretrained else None
    init = config.get("init") if pretrained else None
    lora = node.pop("lora", None)
    restored = restored_by or (restored_from(Path(checkpoint)) if checkpoint else {})
    if init and not checkpoint:
        restored = restored_from(Path(init), "init", node)
    if problems := stored_problems({"restored_by": restored}):  # plain settings, no classes
        raise ConfigError(problems)
    node |= {key: restored[key] for key in _RESTORED if key in restored}
    if checkpoint or init or not pretrained:
        node |= {key: value for key, value in _UNTRAINED.items() if key in node}
    backbone = instantiate(node, config)
    if checkpoint:
        load_backbone(backbone, Path(checkpoint), config["backbone"])
    if lora:
        instantiate(lora, config).apply(backbone)
    return backbone


def _compiler(setting: bool | str) -> dict[str, str]:
    return {} if setting is True else {"backend": str(setting)}


def plan_features(config: Config, module: TransferModule, data: TransferDataModule) -> Plan:
    """Decide which part of a frozen network runs only once per image."""
    numerics = {key: config["trainer"][key] for key in ("precision", "accelerator")}
    return plan(module, data, CacheSettings(**config["cache"]), numerics)


def build(config: Config, run_dir: Path) -> Parts:
    """Build everything that a checked configuration describes, and discover the data.

    Raises:
        DataError: If the data is not what the configuration says.
        CheckpointError: If pretrained weights can neither be found nor downloaded.
    """
    data = build_data(config)
    allowed = [*ALLOWED, *(config.get("allow") or [])]
    data.learn_from = find_class(config["model"]["_target_"], "model", allowed)[0].learn_from
    data.discover()
    if isinstance(data, VectorDataModule) and config["backbone"].get("in_features", 0) is None:
        config["backbone"]["in_features"] = data.width  # stored in checkpoints
    L.seed_everything(config["seed"], workers=True, verbose=False)
    aux_info = aux_label_info(config, data)
    module = build_module(config, data.classes, True, data.class_counts(), aux_info)
    module.inputs = data.learned
    target_labels = config["selection"] == "oracle" or config["track_target"]
    target_labels = target_labels or module.learn_from == "target"
    labels = ("source", "target") if target_labels else ("source",)
    strong = "target_strong" in getattr(module, "extra_views", ())
    data.attach(module.backbone.input_spec, module.train_on, labels, strong)
    features = plan_features(config, module, data)
    # With cached features, each image is read once per view.
    passes = (config["trainer"]["max_epochs"] or 1000) if features.mode == "off" else 1
    data.cache(CacheSettings(**config["cache"]), max(passes, features.views or 1))
    if config["compile"]:
        # In place, so that the names of the weights do not change.
        module.backbone.compile(**_compiler(config["compile"]))
    collect = ReportCollector(**config["report"], seed=config["seed"])
    checkpointing = dict(config["checkpointing"])
    keep_last = checkpointing.pop("keep_last")
    callbacks: list[L.Callback] = [
        *([PhaseCallback()] if module.phases.steps else []),
        SelectionCheckpoint(
            dirpath=str(run_dir / "checkpoints"),
            selection=config["selection"],
            **checkpointing,
        ),
        *(instantiate(node, config) for node in (config.get("callbacks") or {}).values() if node),
        collect,
    ]
    node = dict(config["trainer"])
    node["enable_progress_bar"] = any("ProgressBar" in type(c).__name__ for c in callbacks)
    if not node["enable_progress_bar"]:
        callbacks.append(ConsoleLog())
    loggers = [
        instantiate(n, config, save_dir=str(run_dir))
        for n in (config.get("logger") or {}).values()
        if n
    ]
    trainer = make_trainer(
        config,
        node,
        default_root_dir=str(run_dir),
        callbacks=callbacks,
        logger=loggers,
        plugins=[AtomicCheckpointIO(keep_last=keep_last)],
        use_distributed_sampler=False,  # the data module's samplers split the data over ranks
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    take_signals(trainer)
    return Parts(data, module, trainer, collect, features)
