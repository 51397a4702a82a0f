"""How the head starts: whether a linear probe is possible, and whether it is the default."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tl_lightning.backbones.wrapper import Network
from tl_lightning.config.instantiate import Node
from tl_lightning.config.schema import RunConfig, starts_trained
from tl_lightning.tasks.head import Head

__all__ = ["head_init", "head_init_problems"]


def head_init(config: Mapping[str, Any], nodes: Mapping[str, Node], sharded: bool) -> str:
    """Return what ``head_init=auto`` stands for: a probe for pretrained networks of images."""
    if not issubclass(nodes["backbone"].cls, Network):
        return "random"
    return "random" if _obstacle(config, nodes, sharded) else "probe"


def head_init_problems(run: RunConfig, sharded: bool) -> Iterator[str]:
    """Yield why a run cannot start with a probe, if it is to."""
    obstacle = _obstacle(run.plain, run.nodes, sharded) if run.head_init == "probe" else ""
    if obstacle:
        yield f"head_init=probe {obstacle}; set head_init=random"


def _obstacle(config: Mapping[str, Any], nodes: Mapping[str, Node], sharded: bool) -> str:
    """Return why no linear probe can be fitted; empty if there is no reason."""
    head, model, data = nodes["head"], nodes["model"].cls, nodes["data"].cls
    hidden = [key for key in ("bottleneck", "width") if head.params.get(key) is not None]
    if config["init"]:
        return f"would replace the head of init={config['init']}"
    if not starts_trained(config):
        return "needs features of a trained network, but the backbone has random weights"
    if not issubclass(head.cls, Head):
        return f"sets the weights of a linear classifier, but the head is {head.target}"
    if hidden:
        key = hidden[0]
        return f"sets the weights of a linear classifier, but head.{key}={head.params[key]}"
    if "source" not in model.train_on:
        return f"needs labelled source samples, but model={config['model'].get('name')} has none"
    if not data.storable:
        return f"stores features, which data={config['data'].get('name')} does not support"
    if sharded:
        return "is not supported with a strategy that shards the weights"
    return ""
