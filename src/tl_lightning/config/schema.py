"""The typed configuration of a run.

Nothing here imports torch, so that settings that are wrong by themselves are reported at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from omegaconf import OmegaConf

from tl_lightning.config.cache_folder import own_cache, writable_cache
from tl_lightning.config.compose import with_values
from tl_lightning.config.hints import above, at_least, describe, fits, within
from tl_lightning.config.instantiate import Node, find_nodes
from tl_lightning.config.paths import CONF
from tl_lightning.utils.text import masked

__all__ = [
    "BASELINES",
    "WITHOUT_CLASSES",
    "CacheConfig",
    "CheckpointConfig",
    "ReportConfig",
    "RunConfig",
    "TaskConfig",
    "TaskKind",
    "TaskWeighting",
    "TrainerConfig",
    "cache_root",
    "known_keys",
    "section_problems",
    "starts_trained",
]  # fmt: skip

#: Baselines that every adapted model is compared with, and their names in reports.
BASELINES = {"source_only": "source-only", "joint_bn": "joint batch norm"}
#: What ``baselines=`` may train next to a model: those, and an upper bound.
Baseline = Literal["source_only", "joint_bn", "oracle"]
TaskWeighting = Literal["fixed", "uncertainty", "pcgrad"]
#: What the labels of the main task are.
TaskKind = Literal["classification", "regression", "ordinal", "multi_label"]
#: The kinds whose labels are not one class per sample.
WITHOUT_CLASSES: tuple[TaskKind, ...] = ("regression", "multi_label")
T = TypeVar("T")


def cache_root() -> Path:
    """Return the folder of all caches: ``$TL_CACHE``, or ``~/.cache/tl_lightning``."""
    given = os.environ.get("TL_CACHE")
    return writable_cache(Path(given).expanduser() if given else own_cache())


@dataclass(frozen=True)
class CacheConfig:
    """What is cached, and where.

    Attributes:
        images: ``decoded``, ``off``, or ``auto``: decoded if more than one epoch is trained and
            the images take at most ``limit_gb`` and half of the free disk space.
        features: ``full``: a frozen backbone is run once per image; ``prefix``: only its first
            layer groups, which are never trained; ``off``; or ``auto``: ``full`` if a model with a
            frozen backbone is trained without augmentation.
        views: Number of augmented views stored of every training image, or None: the plain image.
        dir: Folder of the cache, or None for :func:`cache_root`.
        shorter_side: Shorter side of the stored images in pixels; None: as evaluation needs.
        limit_gb: See ``images``.
    """

    images: Literal["off", "decoded", "auto"] = "off"
    features: Literal["off", "full", "prefix", "auto"] = "off"
    views: Annotated[int, at_least(1)] | None = None
    dir: str | None = None
    shorter_side: Annotated[int, at_least(1)] | None = None
    limit_gb: Annotated[float, at_least(0)] = 0.0

    @property
    def root(self) -> Path:
        """Folder that contains all caches."""
        return cache_root() if self.dir is None else writable_cache(Path(self.dir).expanduser())

    @property
    def folder(self) -> Path:
        """Folder of the decoded images."""
        return self.root / "images"


@dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are written; see ``conf/train.yaml``."""

    every_n_epochs: Annotated[int, at_least(1)]
    every_n_steps: Annotated[int, at_least(1)] | None
    every_minutes: Annotated[float, at_least(0)] | None
    keep_last: Annotated[int, at_least(1)]
    min_seconds: Annotated[float, at_least(0)]


@dataclass(frozen=True)
class ReportConfig:
    """What the report collects; see ``conf/train.yaml``."""

    samples: Annotated[int, at_least(1)]
    examples: Annotated[int, at_least(0)]
    projection: Literal["pca", "tsne", "umap"]
    thumbnails: Annotated[int, within(0, 96)]
    explained: Annotated[int, within(0, 64)]


@dataclass(frozen=True)
class TaskConfig:
    """What the labels of the main task are; see ``conf/task/``.

    Attributes:
        kind: One class, numbers, one of several ordered levels, or any number of labels.
        levels: Levels of an ordinal task from low to high, or None if all of them are integers.
    """

    kind: TaskKind
    levels: list[str | int] | None = None


@dataclass(frozen=True)
class TrainerConfig:
    """Arguments of ``lightning.Trainer``; those without a field here are in ``extra``.

    Attributes:
        timeout_s: Seconds after which ranks give up waiting for one another, or None.
        overfit_batches: Number of batches that every epoch repeats, for debugging.
        extra: Arguments added on the command line, such as ``+trainer.profiler=simple``.
    """

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"]
    devices: Annotated[int, at_least(1)] | Literal[-1] | str | list[int]
    num_nodes: Annotated[int, at_least(1)]
    strategy: Any
    sync_batchnorm: bool
    timeout_s: Annotated[float, above(0)] | None
    precision: Any
    max_epochs: Annotated[int, at_least(-1)] | None
    max_steps: Annotated[int, at_least(-1)]
    accumulate_grad_batches: Annotated[int, at_least(1)]
    gradient_clip_val: Annotated[float, at_least(0)] | None
    check_val_every_n_epoch: Annotated[int, at_least(1)] | None
    log_every_n_steps: Annotated[int, at_least(0)]
    limit_train_batches: int | float | None
    limit_val_batches: int | float | None
    limit_test_batches: int | float | None
    overfit_batches: Annotated[int, at_least(0)]
    fast_dev_run: Annotated[int, at_least(0)] | bool
    deterministic: bool | str | None
    benchmark: bool | None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def single_process(self) -> bool:
        """Whether training certainly uses a single process."""
        return str(self.devices) == "1" and self.num_nodes == 1

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of ``lightning.Trainer``."""
        own = {one.name: getattr(self, one.name) for one in fields(self)}
        for key in ("extra", "timeout_s", "overfit_batches", "fast_dev_run"):
            own.pop(key)  # read by the code
        return {**own, **self.extra}


@dataclass(frozen=True)
class RunConfig:
    """A checked configuration: typed settings, and a :class:`Node` for everything that is built.

    Made by :func:`tl_lightning.config.validation.check.check`.

    Attributes:
        plain: The whole configuration as plain values, with every ``auto`` resolved; checkpoints
            and reports store it.
        nodes: Every node by its path, such as ``data`` or ``method.dann``.
    """

    seed: Annotated[int, within(0, 2**32 - 1)]
    selection: str
    track_target: bool
    test: bool
    baselines: Literal["auto"] | bool | list[Baseline]
    tags: list[str]
    task_weighting: TaskWeighting
    layer_decay: Annotated[float, within(0, 1, open=True)]
    reference_batch_size: Annotated[int, at_least(1)] | None
    lr_find: bool
    channels_last: Literal["auto"] | bool
    compile: Literal["inductor", "cudagraphs", "aot_eager", "eager"] | bool
    resume: str | None
    init: str | None
    head_init: Literal["auto", "probe", "random"]
    probe_lr_factor: Annotated[float, above(0)] | Literal["auto"]
    interpolation: float | list[float] | None
    label_shift: Literal["none", "prior"]
    rejection: Literal["auto", "none", "method", "entropy", "energy"]
    rejection_threshold: Literal["otsu", "source"] | float
    allow: list[str]
    cache: CacheConfig
    checkpointing: CheckpointConfig
    report: ReportConfig
    task: TaskConfig
    trainer: TrainerConfig
    plain: Mapping[str, Any] = field(repr=False)
    nodes: Mapping[str, Node] = field(repr=False)

    @classmethod
    def of(cls, plain: Mapping[str, Any], nodes: Mapping[str, Node]) -> RunConfig:
        """Return the typed form of a plain configuration whose sections are valid."""
        own = {name: plain[name] for name in _SCALARS}
        trainer = {k: nodes.get(f"trainer.{k}", value) for k, value in plain["trainer"].items()}
        return cls(
            **own,
            cache=CacheConfig(**plain["cache"]),
            checkpointing=CheckpointConfig(**plain["checkpointing"]),
            report=ReportConfig(**plain["report"]),
            task=TaskConfig(**plain["task"]),
            trainer=_trainer(trainer),
            plain=plain,
            nodes=nodes,
        )

    def changed(self, path: str, value: Any) -> RunConfig:
        """Return a copy with one plain setting replaced, such as ``optimizer.lr``."""
        plain, nodes = with_values(self.plain, {path: value}), dict(self.nodes)
        where, _, key = path.rpartition(".")
        if where in nodes:
            nodes[where] = replace(nodes[where], params={**nodes[where].params, key: value})
        return RunConfig.of(plain, nodes)

    def section(self, name: str) -> Mapping[str, Any]:
        """Return the plain settings of a node, with ``_target_``."""
        found: Mapping[str, Any] = self.plain[name]
        return found

    def group(self, name: str) -> dict[str, Node]:
        """Return the nodes directly below a key, such as those of ``callbacks``, by name."""
        split = {path.rpartition("."): node for path, node in self.nodes.items()}
        return {key: node for (parent, _, key), node in split.items() if parent == name}

    @property
    def stored(self) -> dict[str, Any]:
        """The whole configuration as checkpoints and reports store it, without secrets."""
        return dict(masked(self.plain))

    @property
    def model(self) -> Node:
        """The LightningModule."""
        return self.nodes["model"]

    @property
    def data(self) -> Node:
        """The LightningDataModule."""
        return self.nodes["data"]

    @property
    def backbone(self) -> Node:
        """The backbone."""
        return self.nodes["backbone"]

    @property
    def optimizer(self) -> Node:
        """The optimizer."""
        return self.nodes["optimizer"]

    @property
    def methods(self) -> dict[str, Node]:
        """The adaptation methods by name, in the order of their terms."""
        entries = self.plain["method"] or {}
        return {name: self.nodes[f"method.{name}"] for name, node in entries.items() if node}

    @property
    def aux_tasks(self) -> dict[str, Node]:
        """The auxiliary tasks by name."""
        return {name: self.nodes[f"aux_tasks.{name}"] for name in self.plain["aux_tasks"] or ()}

    @property
    def name(self) -> str:
        """Name of the model in reports."""
        return str(self.model.params.get("name", self.model.cls.__name__))

    @property
    def data_name(self) -> str:
        """Name of the dataset in reports."""
        return str(self.data.params.get("name", self.data.cls.__name__))

    @property
    def target(self) -> Mapping[str, Any] | None:
        """Settings of the target domain, or None if there is none.

        Empty for a class without the argument ``target``, whose samples may have one all the same,
        and if training samples of the source are used without their labels in place of a target.
        """
        found: Mapping[str, Any] | None = self.data.params.get("target", {})
        return {} if found is None and self.data.params.get("labelled_per_class") else found

    @property
    def batch_size(self) -> int:
        """Samples per domain, step and process."""
        return int(self.plain["data"]["batch_size"])

    @property
    def pretrained(self) -> bool:
        """Whether the backbone starts from published weights."""
        return bool(self.backbone.params.get("pretrained"))

    @property
    def starts_trained(self) -> bool:
        """Whether the backbone starts from any trained weights."""
        return starts_trained(self.plain)

    @property
    def lr(self) -> float:
        """Learning rate of new layers, before scaling by the batch size."""
        return float(self.optimizer.params["lr"])

    @property
    def steps(self) -> Sequence[Mapping[str, Any]]:
        """The steps of ``phases``; empty if everything is trained for the whole run."""
        return (self.plain["phases"] or {}).get("steps") or ()


def starts_trained(config: Mapping[str, Any]) -> bool:
    """Return whether the backbone of a plain configuration starts from any trained weights."""
    keys = ("pretrained", "weights", "checkpoint")
    return bool(config["init"] or any(config["backbone"].get(key) for key in keys))


_SECTIONS: dict[str, Any] = {
    "cache": CacheConfig, "checkpointing": CheckpointConfig, "report": ReportConfig,
    "task": TaskConfig, "trainer": TrainerConfig,
}  # fmt: skip
_SCALARS = tuple(
    one.name for one in fields(RunConfig) if one.name not in {*_SECTIONS, "plain", "nodes"}
)


def _trainer(values: Mapping[str, Any]) -> TrainerConfig:
    known = {one.name for one in fields(TrainerConfig)}
    own = {key: value for key, value in values.items() if key in known}
    extra = {k: v for k, v in values.items() if k not in known and k != "_target_"}
    return TrainerConfig(**own, extra=extra)


def section_problems(config: Mapping[str, Any]) -> list[str]:
    """Return the settings outside of nodes that have a wrong type or are out of range."""
    hints = get_type_hints(RunConfig, include_extras=True)
    del hints["task_weighting"]  # its message, with a suggestion, is in validation/structure.py
    problems = [
        f"{name}={config[name]} is not {describe(hints[name])}; set {name}=<value>"
        for name in _SCALARS
        if name in hints and (not fits(config[name], hints[name]) or any(find_nodes(config[name])))
    ]
    for section, cls in _SECTIONS.items():
        hints = get_type_hints(cls, include_extras=True)
        problems += [
            f"{section}.{key}={value} is not {describe(hints[key])}; set {section}.{key}=<value>"
            for key, value in config[section].items()
            if key in hints and not fits(value, hints[key])
        ]
        problems += [
            f"{section}.{one.name} is missing; set {section}.{one.name}=<value>"
            for one in fields(cls)
            if one.default is MISSING
            and one.default_factory is MISSING
            and one.name not in config[section]
        ]
    return problems


#: Groups of ``conf/train.yaml`` that set keys elsewhere, but none under their own name.
_WITHOUT_KEY = {"_self_", "aux_task", "recipe", "recipe_for", "experiment", "debug", "local"}


@cache
def known_keys() -> dict[str, Any]:
    """Return the top-level keys: each with its own keys, or an empty mapping for a group."""
    plain: Any = OmegaConf.to_container(OmegaConf.load(CONF / "train.yaml"), resolve=False)
    groups = set()
    for item in plain.pop("defaults"):
        name = item if isinstance(item, str) else next(iter(item))
        if not str(name).startswith("override "):
            groups.add(str(name).removeprefix("optional "))
    plain.pop("hydra")
    known: dict[str, Any] = {name: {} for name in groups - _WITHOUT_KEY} | plain
    return known
