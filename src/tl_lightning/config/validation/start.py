"""How the head starts: whether it can be fitted first, and whether that is the default."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tl_lightning.backbones.wrapper import Network
from tl_lightning.config.instantiate import Node
from tl_lightning.config.schema import RunConfig, starts_trained
from tl_lightning.models.supervised import FeatureExtraction
from tl_lightning.selection.rules import rule_of
from tl_lightning.tasks.head import Head

__all__ = ["head_init", "head_init_problems", "interpolation_problems"]


def head_init(config: Mapping[str, Any], nodes: Mapping[str, Node], sharded: bool) -> str:
    """Return what ``head_init=auto`` stands for: a probe for pretrained networks of images.

    Not for texts, nor with hidden layers of the head if nothing else is trained: neither has been
    measured.
    """
    if not issubclass(nodes["backbone"].cls, Network) or _obstacle(config, nodes, sharded):
        return "random"
    only_head = issubclass(nodes["model"].cls, FeatureExtraction)
    return "random" if only_head and Head.hidden(nodes["head"].params) else "probe"


def head_init_problems(run: RunConfig, sharded: bool) -> Iterator[str]:
    """Yield why a run cannot start with a probe, if it is to."""
    obstacle = _obstacle(run.plain, run.nodes, sharded) if run.head_init == "probe" else ""
    if obstacle:
        yield f"head_init=probe {obstacle}; set head_init=random"


def interpolation_problems(run: RunConfig) -> Iterator[str]:
    """Yield why a run cannot interpolate between its start and the selected model."""
    wanted = run.interpolation
    if wanted is None:
        return
    alphas = wanted if isinstance(wanted, list) else [wanted]
    shown = f"[{','.join(map(str, wanted))}]" if isinstance(wanted, list) else wanted
    if not alphas or len(set(alphas)) < len(alphas) or not all(0 < one < 1 for one in alphas):
        yield (
            f"interpolation={shown} is not a number above 0 and below 1, or a list of different "
            "ones (0 is the start and 1 the selected model, which are compared anyway); set "
            "interpolation=[0.25,0.5,0.75]"
        )
    elif run.model.cls.composite:
        yield (
            f"interpolation={shown} needs one training, but model={run.name} consists of several; "
            "set interpolation=null"
        )
    elif run.head_init != "probe":
        yield (
            f"interpolation={shown} needs a model before training that can already predict, but "
            f"head_init={run.head_init}; set interpolation=null, or head_init=probe with a "
            "pretrained backbone"
        )
    elif isinstance(wanted, list) and rule_of(run.selection, run.task.kind).monitor is None:
        yield (
            f"interpolation={shown} compares models by the selection rule, but selection="
            f"{run.selection} has no score; set selection=source_val, or a single number such as "
            f"interpolation={alphas[0]}"
        )


def _obstacle(config: Mapping[str, Any], nodes: Mapping[str, Node], sharded: bool) -> str:
    """Return why the head cannot be fitted first; empty if there is no reason."""
    head, model, data = nodes["head"], nodes["model"].cls, nodes["data"].cls
    if (kind := config["task"]["kind"]) != "classification":
        return f"fits a classifier, but task={kind}"
    if config["init"]:
        return f"would replace the head of init={config['init']}"
    if not starts_trained(config):
        return "needs features of a trained network, but the backbone has random weights"
    # A subclass with another order of layers is not what is fitted.
    if not Head.is_kind(head.cls):
        return f"fits a tl_lightning.tasks.head.Head, but the head is {head.target}"
    if "source" not in model.train_on:
        return f"needs labelled source samples, but model={config['model'].get('name')} has none"
    if not data.storable:
        return f"stores features, which data={config['data'].get('name')} does not support"
    if sharded:
        return "is not supported with a strategy that shards the weights"
    return ""
