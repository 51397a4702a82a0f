"""Resolution of ``auto`` settings to concrete values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tl_lightning.backbones.wrapper import Network
from tl_lightning.callbacks.rollback import MAX_DROP
from tl_lightning.config.compose import default_node
from tl_lightning.config.instantiate import ALLOWED, Node, find_class, nodes_of
from tl_lightning.config.schema import WITHOUT_CLASSES, RunConfig, starts_trained
from tl_lightning.config.validation.start import head_init
from tl_lightning.data.named_domains import OTHERS
from tl_lightning.data.target import no_target
from tl_lightning.distributed.fsdp import Sharded
from tl_lightning.distributed.strategy import STRATEGIES, is_sharded
from tl_lightning.methods.components.class_sets import RecognisesUnknown, WeighsClasses
from tl_lightning.models.adaptation import DomainAdaptation
from tl_lightning.models.generalization import DomainGeneralization
from tl_lightning.models.phases import resolved_steps
from tl_lightning.selection.callback import MIN_PREDICTED, MIN_SOURCE, MIN_WEIGHTED
from tl_lightning.utils.process import auto_precision

__all__ = ["allowed_packages", "has_target", "resolve", "resolve_run"]


#: Scores of classes, and those of other labels.
_VALIDATORS = "tl_lightning.selection.callback.Validators"
_LOSS_VALIDATORS = "tl_lightning.selection.loss_callback.LossValidators"


def resolve(
    config: dict[str, Any], nodes: Mapping[str, Node]
) -> tuple[dict[str, Any], dict[str, Node]]:
    """Replace every ``auto`` that depends on the machine, so that the report is explicit.

    Args:
        config: The plain configuration; it is changed.
        nodes: Its nodes.

    Returns:
        The configuration and its nodes.
    """
    trainer, optimizer, data = config["trainer"], config["optimizer"], config["data"]
    if trainer["fast_dev_run"]:
        batches = int(trainer["fast_dev_run"])
        limits = {f"limit_{stage}_batches": batches for stage in ("train", "val", "test")}
        trainer |= {"max_epochs": 1, "max_steps": -1, "check_val_every_n_epoch": 1, **limits}
        config["checkpointing"]["every_n_epochs"] = 1
    if trainer["overfit_batches"]:
        trainer["limit_train_batches"] = trainer["overfit_batches"]
    if trainer["accelerator"] == "auto":
        trainer["accelerator"] = "gpu" if torch.cuda.is_available() else "cpu"
    if trainer["precision"] == "auto":
        trainer["precision"] = auto_precision(trainer["accelerator"])
    if optimizer.get("fused") == "auto":
        # With a fused optimizer, Lightning does not clip gradients under mixed precision. Under
        # 16-mixed it also passes scaled gradients to the callbacks, and fails in a step without
        # gradients.
        precision = str(trainer["precision"])
        clips = "mixed" in precision and trainer["gradient_clip_val"] is not None
        optimizer["fused"] = not clips and precision != "16-mixed"
    if config["channels_last"] == "auto":
        config["channels_last"] = trainer["precision"] == "bf16-mixed"
    if data.get("pin_memory") == "auto":
        data["pin_memory"] = trainer["accelerator"] == "gpu"
    if _no_target(nodes["data"].cls, data.get("target")):
        data["target"] = None
    strategy = nodes.get("trainer.strategy")
    sharded = strategy is not None and issubclass(strategy.cls, Sharded)
    _resolve_start(config, nodes, sharded)
    _resolve_class_filters(config, nodes)
    if config["task"]["kind"] in WITHOUT_CLASSES:
        config["callbacks"] = _callbacks_without_classes(config["callbacks"] or {})
    if config["selection"] == "auto":
        config["selection"] = _selection(config, nodes)
    if config["rejection"] == "auto":
        config["rejection"] = _rejection(config, nodes)
    if sharded:
        if config["cache"]["features"] == "auto":  # a sharded network cannot compute them
            config["cache"]["features"] = "off"
        if issubclass(nodes["optimizer"].cls, torch.optim.SGD):
            optimizer["fused"] = False  # torch has no fused SGD for sharded weights
    return config, nodes_of(config, allowed_packages(config))[0]


def _resolve_start(config: dict[str, Any], nodes: Mapping[str, Node], sharded: bool) -> None:
    """Resolve how the batch norm and the head of a pretrained network start."""
    if config["model"].get("relative_bn") == "auto":
        config["model"]["relative_bn"] = not sharded and _moves_statistics(config, nodes)
    if config["model"].get("relative_bn") and "relative_bn" not in config["method"]:
        moved = {**default_node("method", "relative_bn"), "required": False}
        config["method"] = {"relative_bn": moved, **config["method"]}
    if config["backbone"].get("freeze_bn") == "auto":
        config["backbone"]["freeze_bn"] = _keeps_statistics(config, nodes)
    if config["head_init"] == "auto":
        config["head_init"] = head_init(config, nodes, sharded)


def _keeps_statistics(config: Mapping[str, Any], nodes: Mapping[str, Node]) -> bool:
    """Return whether batch norm keeps the statistics that the backbone starts with.

    Those of a few thousand narrow images are worse than those of ImageNet, see
    docs/measurements.md. Without any method, adaptation consists of the batch statistics alone.
    """
    if not starts_trained(config):
        return False
    methods = _methods(nodes)
    if not methods:
        return "target" not in nodes["model"].cls.train_on
    return not any(cls.batch_statistics for cls in methods)


def _moves_statistics(config: Mapping[str, Any], nodes: Mapping[str, Node]) -> bool:
    """Return whether ``model.relative_bn=auto`` adds the method relative_bn to the others.

    It does for pretrained networks of images whose batch norm is not trained.
    """
    methods = _methods(nodes)
    return bool(
        methods
        and starts_trained(config)
        and set(nodes["model"].cls.train_on) == {"source", "target"}
        and issubclass(nodes["backbone"].cls, Network)
        and config["backbone"].get("freeze_bn") is not False
        and not config["data"].get("labelled_per_class")  # one domain
        and nodes["data"].cls.storable
        and not any(cls.batch_statistics for cls in methods)
    )


def _callbacks_without_classes(callbacks: Mapping[str, Any]) -> dict[str, Any]:
    """Return the callbacks for labels that are not classes: other scores, and no roll-back."""
    found = {**callbacks, "rollback": None}
    node = found.get("validators")
    if isinstance(node, Mapping) and node.get("_target_") == _VALIDATORS:
        kept = {k: v for k, v in node.items() if k != "min_predicted_classes"}
        found["validators"] = {**kept, "_target_": _LOSS_VALIDATORS}
    return found


def _resolve_class_filters(config: dict[str, Any], nodes: Mapping[str, Node]) -> None:
    """Resolve when a model counts as collapsed.

    A target without some of the classes has fewer to predict, and class weights give up accuracy on
    the classes of the source that seem to be absent.
    """
    missing = (config["data"].get("target") or {}).get("classes") in ("subset", "universal")
    weighted = any(issubclass(cls, WeighsClasses) for cls in _methods(nodes))
    for name, key, usual, other, applies in (
        ("validators", "min_source_ratio", MIN_SOURCE, MIN_WEIGHTED, weighted),
        ("validators", "min_predicted_classes", MIN_PREDICTED, 0.0, missing),
        ("rollback", "max_drop", MAX_DROP, 1.0, missing),
    ):
        node = (config["callbacks"] or {}).get(name)
        if node and node.get(key) == "auto":
            node[key] = other if applies else usual


def _methods(nodes: Mapping[str, Node]) -> list[Any]:
    """Return the classes of the methods."""
    return [node.cls for path, node in nodes.items() if path.startswith("method.")]


def _other_frequencies(config: Mapping[str, Any], nodes: Mapping[str, Node]) -> bool:
    """Return whether the settings say that classes are not as frequent in the target."""
    kind = (config["data"].get("target") or {}).get("classes") or "same"
    methods = _methods(nodes)
    return bool(
        kind != "same"
        or config["label_shift"] != "none"
        or config["data"].get("target_sampling") == "pseudo_balanced"
        or any(issubclass(cls, WeighsClasses) for cls in methods)
    )


def _rejection(config: Mapping[str, Any], nodes: Mapping[str, Node]) -> str:
    """Return how samples of no class are recognised: not at all if the target has none."""
    if (config["data"].get("target") or {}).get("classes") not in ("open", "universal"):
        return "none"
    methods = _methods(nodes)
    return "method" if any(issubclass(cls, RecognisesUnknown) for cls in methods) else "entropy"


def _no_target(cls: Any, target: Any) -> bool:
    """Return whether the dataset takes these settings of ``data.target`` as no target."""
    return isinstance(target, Mapping) and hasattr(cls, "target_keys") and no_target(cls, target)


def allowed_packages(config: Mapping[str, Any]) -> list[str]:
    """Return the packages and classes that a composed configuration may name."""
    return [*ALLOWED, *config["allow"]]


def has_target(config: Mapping[str, Any]) -> bool:
    """Return whether the data of a composed configuration have a target."""
    data = config["data"]
    cls, _ = find_class(str(data.get("_target_")), "data", allowed_packages(config))
    return data.get("target") is not None and not _no_target(cls, data["target"])


def _selection(config: Mapping[str, Any], nodes: Mapping[str, Node]) -> str:
    """Return the selection rule of ``auto``, see docs/measurements.md.

    An adapted model and its baselines get the same rule, so that they are comparable.
    """
    name = config["model"].get("name")
    # A class without the argument ``target`` may have a target; only adaptation requires it.
    adapts = issubclass(nodes["model"].cls, DomainAdaptation)
    averaging = nodes.get("callbacks.weight_averaging")
    if averaging is not None and getattr(averaging.cls, "chooses_epochs", False):
        return "last"
    if config["task"]["kind"] in WITHOUT_CLASSES:
        whole = config["model"].get("full_data")
        return "oracle" if name == "oracle" else "last" if whole else "source_val"
    if issubclass(nodes["model"].cls, DomainGeneralization):
        return _selection_unseen(config)
    target = config["data"].get("target", {"": ""} if adapts else None)
    if not target or not (adapts or name in ("source_only", "oracle")):
        # Also compares with the probe, which few epochs of fine-tuning may not reach.
        return "source_val" if config["head_init"] == "probe" else "last"
    if "callbacks.validators" not in nodes:
        return "last"
    if name == "oracle":  # no other score reflects what it learns
        return "oracle"
    if _other_frequencies(config, nodes):
        return "prior_im"
    # The confidence of a probe and of a trained model can only be compared after calibration.
    return "cbnm" if config["head_init"] == "probe" else "bnm"


def _selection_unseen(config: Mapping[str, Any]) -> str:
    """Return the rule for a model that never sees the target: by the domains of the source."""
    if config["model"].get("full_data"):
        return "last"
    domain = (config["data"].get("source") or {}).get("domain")
    several = domain == OTHERS or (isinstance(domain, list) and len(domain) > 1)
    return "mean_domain" if several else "source_val"


def resolve_run(run: RunConfig) -> RunConfig:
    """Convert fractions of phases to epochs; choose a strategy for parameters without gradients.

    Args:
        run: Without problems.
    """
    if run.steps:
        assert run.trainer.max_epochs is not None
        run = run.changed("phases.steps", resolved_steps(run.steps, run.trainer.max_epochs))
    unused = any(node.cls.find_unused_parameters for node in run.methods.values())
    if not is_sharded(run.trainer) and (run.steps or unused):
        strategy = run.trainer.strategy
        strategy = "ddp" if strategy == "auto" and not run.trainer.single_process else strategy
        if isinstance(strategy, str):
            run = run.changed("trainer.strategy", STRATEGIES.get(strategy, strategy))
    return run
