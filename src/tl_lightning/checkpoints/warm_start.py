"""A backbone from an earlier run of one's own, for new labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from tl_lightning.checkpoints.io import read_checkpoint
from tl_lightning.errors import CheckpointError

__all__ = ["checkpoint_of", "load_backbone", "load_model", "restored_from"]

#: What changes the meaning of weights, though they would fit.
_MEANING = ("_target_", "name", "activation", "mean", "std")
#: What changes what a head takes, though all weights would fit.
_SHAPELESS = ("activation", "pooling", "mean", "std")
#: Where a task keeps what its loss is made with, such as the weights of classes.
_OF_LOSS = "loss_fn."
#: What may differ between two runs with the same backbone.
_FREE = ("pretrained", "tag", "weights", "lr_factor", "grad_checkpointing", "checkpoint", "lora")
_CHOICES = {
    "TimmBackbone": "timm",
    "TorchvisionBackbone": "torchvision",
    "ConvNet": "small_cnn",
    "TextBackbone": "hf",
    "VectorNet": "vector_net",
}


def checkpoint_of(place: Path, key: str = "backbone.checkpoint") -> Path:
    """Return the checkpoint that a path names: a file, or the one that a run has selected.

    Args:
        place: The path.
        key: Where it is set.

    Raises:
        CheckpointError: If there is none.
    """
    if place.is_file():
        return place
    chosen = place / "checkpoints" / "last.ckpt"
    report = place / "report.json"
    selected = json.loads(report.read_text()).get("selection") if report.is_file() else None
    if selected:
        chosen = place / selected["checkpoint"]
    if not chosen.is_file():
        raise CheckpointError(
            f"{key}={place} is neither a checkpoint nor the folder of a run that has "
            "one; type the path of a .ckpt file or of a run's folder"
        )
    return chosen


def load_backbone(backbone: nn.Module, place: Path, node: Mapping[str, Any]) -> None:
    """Give a backbone the weights that it has in a checkpoint of ours.

    Args:
        backbone: As ``node`` describes it.
        place: A checkpoint or a run's folder.
        node: The configuration's ``backbone``.

    Raises:
        CheckpointError: If there is no such checkpoint, or its backbone is another one.
    """
    file = checkpoint_of(place)
    stored = read_checkpoint(file)
    theirs = stored["hyper_parameters"]["config"]["backbone"]
    state = {
        name.removeprefix("backbone."): value
        for name, value in stored["state_dict"].items()
        if name.startswith("backbone.")
    }
    rank = (theirs.get("lora") or {}).get("rank")
    if rank:
        raise CheckpointError(
            f"backbone.checkpoint={place} was trained with backbone.lora.rank={rank}, whose "
            "matrices stand beside the network's own; type the path of a run with "
            "backbone.lora.rank=0"
        )
    own = backbone.state_dict()
    fits = own.keys() == state.keys() and all(state[k].shape == own[k].shape for k in own)
    if not fits or any(theirs.get(key) != node.get(key) for key in _MEANING):
        raise CheckpointError(
            f"backbone.checkpoint={place} holds {_words(theirs)}, this run builds {_words(node)}; "
            f"type {_settings(theirs, node)}"
        )
    backbone.load_state_dict(state)


def restored_from(
    place: Path, key: str = "backbone.checkpoint", node: Mapping[str, Any] | None = None
) -> Mapping[str, Any]:
    """Return the settings of the backbone that a checkpoint of ours carries beside its weights.

    Args:
        place: A checkpoint or a run's folder.
        key: Where it is set.
        node: A backbone; the settings of one of another name are not for it.
    """
    stored = read_checkpoint(checkpoint_of(place, key))
    theirs = stored["hyper_parameters"]["config"]["backbone"]
    if node is not None and theirs.get("name") != node.get("name"):
        return {}
    found: Mapping[str, Any] = stored.get("restored_by", {})
    return found


def load_model(
    backbone: nn.Module,
    task: nn.Module,
    place: Path,
    config: Mapping[str, Any],
    classes: Sequence[str],
) -> None:
    """Give backbone and head all the weights that they have in a checkpoint of ours.

    Args:
        backbone: As the configuration describes it.
        task: Likewise.
        place: A checkpoint or a run's folder.
        config: The run's configuration.
        classes: Class names in the order of the labels.

    Raises:
        CheckpointError: If there is no such checkpoint, or it is of another network or classes.
    """
    stored = read_checkpoint(checkpoint_of(place, "init"))
    saved = stored["hyper_parameters"]
    if list(saved["classes"]) != list(classes):
        raise CheckpointError(
            f"init={place} knows the classes {', '.join(saved['classes'][:5])}, ..., these data "
            f"have {', '.join(classes[:5])}, ...; type data of the same classes, or "
            f"backbone.checkpoint={place} for the backbone alone"
        )
    before, now = saved["config"]["backbone"], config["backbone"]
    for key in _SHAPELESS:
        if key in before and key in now and before[key] != now[key]:
            raise CheckpointError(
                f"init={place} was trained with backbone.{key}={_typed(before[key])}, this run has "
                f"{_typed(now[key])}; type backbone.{key}={_typed(before[key])}"
            )
    for part, prefix in ((backbone, "backbone."), (task, "task.")):
        names = [name for name in stored["state_dict"] if name.startswith(prefix)]
        state = {name.removeprefix(prefix): stored["state_dict"][name] for name in names}
        own = part.state_dict()
        # The weights of a loss are no learnt ones: they follow from the settings of this run.
        state = {k: v for k, v in state.items() if not k.startswith(_OF_LOSS)}
        state |= {k: v for k, v in own.items() if k.startswith(_OF_LOSS)}
        if own.keys() != state.keys() or any(state[k].shape != own[k].shape for k in own):
            kind = prefix.rstrip(".")
            group = "head" if kind == "task" else kind
            theirs = saved["config"][group]
            raise CheckpointError(
                f"init={place} holds another {group} ({_plain(theirs)}) than this run builds "
                f"({_plain(config[group])}); type the {group}'s settings of that run"
            )
        part.load_state_dict(state)


def _plain(node: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={_typed(v)}" for key, v in node.items() if not key.startswith("_"))


def _words(node: Mapping[str, Any]) -> str:
    kind = str(node["_target_"]).rpartition(".")[2]
    return f"{node['name']} ({kind})" if "name" in node else kind


def _settings(theirs: Mapping[str, Any], node: Mapping[str, Any]) -> str:
    """Say what to type for the backbone of the checkpoint."""
    kind = str(theirs["_target_"]).rpartition(".")[2]
    other = theirs["_target_"] != node["_target_"]
    typed = [
        f"backbone.{key}={_typed(value)}"
        for key, value in theirs.items()
        if not key.startswith("_") and key not in _FREE and (other or value != node.get(key))
    ]
    return " ".join([f"backbone={_CHOICES.get(kind, '<as in that run>')}", *typed])


def _typed(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
