"""Construction of the data module, model and trainer from a checked configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from tl_lightning.callbacks.explanations import report_callbacks
from tl_lightning.callbacks.report_collector import ReportCollector
from tl_lightning.checkpoints.io import AtomicCheckpointIO
from tl_lightning.checkpoints.resume import data_state
from tl_lightning.checkpoints.warm_start import load_backbone, load_model, restored_from
from tl_lightning.config.allowlist import stored_problems
from tl_lightning.config.schema import RunConfig
from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.distributed.strategy import lr_factor
from tl_lightning.errors import ConfigError, nearest
from tl_lightning.methods.base import Method
from tl_lightning.models.adaptation import DomainAdaptation
from tl_lightning.models.base import TransferModule
from tl_lightning.models.phases import Phases
from tl_lightning.schedules import Constant, Schedule, TorchScheduler
from tl_lightning.tasks.auxiliary.base import AuxiliaryTask, LabelInfo
from tl_lightning.tasks.auxiliary.labels import attach_labels
from tl_lightning.tasks.encoding import data_of
from tl_lightning.tasks.main_task import MainTask, main_task
from tl_lightning.training.feature_plan import Plan, plan
from tl_lightning.training.sizes import with_sizes
from tl_lightning.training.small_data import check_batches, check_spans, fit_to_size
from tl_lightning.training.source_domains import named_sources
from tl_lightning.training.target_labels import discovered
from tl_lightning.training.trainer import make_loggers, make_trainer, run_callbacks
from tl_lightning.utils.seeding import mix
from tl_lightning.utils.signals import take_signals

__all__ = ["Parts", "aux_label_info", "build", "build_module"]


@dataclass
class Parts:
    """Objects built from a configuration.

    Attributes:
        run: The configuration, with what the data determine (the length of vectors).
        data: The data module, prepared for the model.
        module: The model.
        trainer: The trainer.
        collector: Collects what the report shows.
        features: Which part of a frozen network runs only once per image.
    """

    run: RunConfig
    data: TransferDataModule
    module: TransferModule
    trainer: L.Trainer
    collector: ReportCollector
    features: Plan


def build(
    run: RunConfig,
    run_dir: Path,
    all_domains: bool = False,
    before: Mapping[str, Any] | None = None,
    samples: int | None = None,
) -> Parts:
    """Build everything that a checked configuration describes, and discover the data.

    Args:
        run: A checked configuration.
        run_dir: The run's folder.
        all_domains: Whether the data also show domains that the model does not train on.
        before: What the checkpoint stores of the data if the run is resumed.
        samples: Largest number of samples of each split, spread evenly; None for all.

    Raises:
        DataError: If the data is not what the configuration says.
        CheckpointError: If pretrained weights can neither be found nor downloaded.
    """
    data = data_of(run)
    info = discovered(run, data, samples)
    fit_to_size(run, data, before)
    check_batches(run, data)
    run = with_sizes(run, info)
    L.seed_everything(run.seed, workers=True, verbose=False)
    aux_info = aux_label_info(run, data)
    module = build_module(
        run, info.classes, True, info.class_counts, aux_info, input_state=info.input_state
    )
    module.data_state = data_state(data) | named_sources(run, data.found["source"])
    peeks = run.selection == "oracle" or run.track_target or module.learn_from == "target"
    needs = replace(module.needs(), val_labels=("source", "target") if peeks else ("source",))
    needs = replace(needs, train_on=tuple(data.domain_names)) if all_domains else needs
    data.prepare(needs, repeat_epoch=run.trainer.overfit_batches > 0)
    features = plan(module, data, run)
    # With cached features, each image is read once per view.
    passes = (run.trainer.max_epochs or 1000) if features.mode == "off" else 1
    data.cache_images(run.cache, max(passes, features.views or 1))
    if run.compile:
        # In place, so that the names of the weights do not change.
        module.backbone.compile(**({} if run.compile is True else {"backend": run.compile}))
    collector, explanations = report_callbacks(asdict(run.report), run.seed)
    trainer = make_trainer(
        run.trainer, run_dir,
        callbacks=run_callbacks(run, module, run_dir, [collector, explanations]),
        logger=make_loggers(run.group("logger"), run_dir),
        plugins=[AtomicCheckpointIO(keep_last=run.checkpointing.keep_last)],
    )  # fmt: skip
    take_signals(trainer)
    return Parts(run, data, module, trainer, collector, features)


def build_module(
    run: RunConfig,
    classes: Sequence[str],
    pretrained: bool = True,
    class_counts: Sequence[int] | None = None,
    aux_info: Mapping[str, LabelInfo] | None = None,
    restored_by: Mapping[str, Any] | None = None,
    own: Mapping[str, Any] | None = None,
    input_state: Mapping[str, Any] | None = None,
) -> TransferModule:
    """Build the model for the given classes.

    Args:
        run: A checked configuration.
        classes: Class names in the order of the labels.
        pretrained: False if a checkpoint is going to be loaded, so that nothing is downloaded.
        class_counts: Source training images per class, if the data are available.
        aux_info: Label information of the auxiliary tasks, see :func:`aux_label_info`.
        restored_by: Backbone settings stored in its checkpoint.
        own: Objects to use in place of the configured parts: ``backbone`` and ``loss`` (modules),
            ``optimizer`` (a function of the parameter groups), ``scheduler`` (a function of the
            optimizer), and besides the configured ones ``metrics`` and ``methods`` by name.
        input_state: What the data have fitted to the training samples, see :class:`.DataInfo`.

    Raises:
        ConfigError: If an object is not a part of a model, or the backbone lacks an attribute.
    """
    own = own or {}
    for key, part in own.items():
        if key not in _OWN:
            raise ConfigError(f"{key} is not a part of a model; {nearest(key, _OWN)}")
        kind, words = _OWN[key]
        if not isinstance(part, kind):
            raise ConfigError(
                f"{key} is a {type(part).__name__}, not a {words}; see docs/bring_your_own.md"
            )
    # Each part has its own seed, so that another discriminator does not change the backbone.
    torch.manual_seed(mix(run.seed, 1))
    backbone = own.get("backbone") or _backbone(run, pretrained, restored_by or {})
    _check_backbone(backbone, own="backbone" in own)
    torch.manual_seed(mix(run.seed, 2))
    task = main_task(run, backbone.out_features, classes, class_counts, own, input_state or {})
    if run.init and pretrained:
        sections = {name: run.section(name) for name in ("backbone", "head")}
        load_model(backbone, task, Path(run.init), sections, classes)
    adapts = issubclass(run.model.cls, DomainAdaptation)
    extra = {"methods": _methods(run, backbone, task, own.get("methods", {}))} if adapts else {}
    # Built last, as some keep a copy of the initial weights.
    regularizers = {
        name: node.build(backbone=backbone, task=task)
        for name, node in run.group("regularizer").items()
    }
    factor = lr_factor(run, sum(class_counts or ()))
    module: TransferModule = run.model.build(
        backbone=backbone,
        task=task,
        optimizer=own.get("optimizer") or (lambda groups: run.optimizer.build(params=groups)),
        lr=run.lr * factor,
        schedule=TorchScheduler(own["scheduler"]) if "scheduler" in own else _schedule(run),
        phases=_phases(run, factor),
        layer_decay=run.layer_decay,
        seed=run.seed,
        channels_last=run.channels_last,
        regularizers=regularizers,
        aux_tasks=_aux_tasks(run, task, aux_info or {}),
        task_weighting=run.task_weighting,
        saved={
            "config": run.stored, "classes": list(classes),
            "aux_tasks": dict(aux_info or {}),
        },
        **extra,
    )  # fmt: skip
    module.input_state = input_state or {}
    return module


#: Parts of a model that may be objects, and what each of them must be.
_OWN: dict[str, tuple[Any, str]] = {
    "backbone": (nn.Module, "module"),
    "loss": (nn.Module, "module"),
    "methods": (Mapping, "mapping from names to methods"),
    "metrics": (Mapping, "mapping from names to metrics"),
    "optimizer": (Callable, "function of the parameter groups"),
    "scheduler": (Callable, "function of the optimizer"),
}


def _check_backbone(backbone: Any, own: bool) -> None:
    # With the user's own loaders the inputs may be given as the network needs them.
    for name in ("out_features",) if own else ("out_features", "input_spec"):
        if not hasattr(backbone, name):
            raise ConfigError(
                f"the backbone {type(backbone).__name__} has no attribute {name}; see "
                "docs/bring_your_own.md#backbone for what it needs"
            )


def _methods(
    run: RunConfig, backbone: Any, task: MainTask, own: Mapping[str, Method]
) -> dict[str, Method]:
    """Build the methods, each from its own seed, and let them modify the network."""
    methods: dict[str, Method] = {}
    for number, (name, node) in enumerate(run.methods.items()):
        torch.manual_seed(mix(run.seed, 3, number))
        check_spans(run, name, task.head.out_features)
        methods[name] = node.build(in_features=task.head.out_features, num_classes=task.num_classes)
        methods[name].modify_network(backbone, task)
    for method in own.values():
        method.modify_network(backbone, task)
    return {**methods, **own}


def _aux_tasks(
    run: RunConfig, task: MainTask, aux_info: Mapping[str, LabelInfo]
) -> dict[str, AuxiliaryTask]:
    """Build the auxiliary tasks, each from its own seed."""
    tasks = {}
    for number, (name, label_info) in enumerate(aux_info.items()):
        torch.manual_seed(mix(run.seed, 4, number))
        tasks[name] = run.aux_tasks[name].build(
            in_features=task.head.out_features, label_info=label_info
        )
    return tasks


def aux_label_info(
    run: RunConfig, data: TransferDataModule, known: Mapping[str, LabelInfo] | None = None
) -> dict[str, LabelInfo]:
    """Attach the labels of the auxiliary tasks to the data; return their label information.

    Args:
        run: A checked configuration.
        data: A data module after ``discover``.
        known: Label information of the run that a checkpoint comes from.
    """
    kinds = {name: (node.cls, node.params) for name, node in run.aux_tasks.items()}
    return attach_labels(data, kinds, known)


def _schedule(run: RunConfig) -> Schedule | TorchScheduler:
    node = run.nodes.get("scheduler")
    if node is None:
        return Constant(warmup=0.0)
    if issubclass(node.cls, LRScheduler):
        interval = node.consumed.get("interval", "epoch")
        return TorchScheduler(lambda optimizer: node.build(optimizer=optimizer), interval)
    schedule: Schedule = node.build()
    return schedule


def _phases(run: RunConfig, factor: float) -> Phases:
    node = run.nodes.get("phases")
    if node is None:
        return Phases(schedule="run", steps=[])
    steps = [
        {**step, "lr": step["lr"] * factor} if step.get("lr") is not None else step
        for step in run.steps
    ]
    phases: Phases = replace(node, params={**node.params, "steps": steps}).build()
    return phases


#: Backbone settings that a checkpoint may override.
_RESTORED = ("network", "tokenizer")
_UNTRAINED = {"pretrained": False, "weights": None}


def _backbone(run: RunConfig, pretrained: bool, restored_by: Mapping[str, Any]) -> Any:
    """Build the backbone: pretrained, warm-started from an earlier run, or randomly initialized."""
    node = run.backbone
    # Without pretrained, all weights come from a checkpoint that is loaded later.
    checkpoint = node.consumed.get("checkpoint") if pretrained else None
    init = run.init if pretrained else None
    restored = restored_by or (restored_from(Path(checkpoint)) if checkpoint else {})
    if init and not checkpoint:
        restored = restored_from(Path(init), "init", node.params)
    if problems := stored_problems({"restored_by": restored}):  # plain settings, no classes
        raise ConfigError(problems)
    kept = (key for key in _RESTORED if key in restored and key in node.params)
    params = {**node.params, **{key: restored[key] for key in kept}}
    if checkpoint or init or not pretrained:
        params |= {key: value for key, value in _UNTRAINED.items() if key in params}
    backbone = replace(node, params=params).build()
    if checkpoint:
        load_backbone(backbone, Path(checkpoint), run.section("backbone"))
    if (lora := node.consumed.get("lora")) is not None:
        lora.build().apply(backbone)
    return backbone
