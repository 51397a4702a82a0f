"""Warm start: load backbone or model weights from an earlier run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from tl_lightning.checkpoints.hub import downloaded
from tl_lightning.checkpoints.io import read_model
from tl_lightning.checkpoints.places import hub_name, no_checkpoint
from tl_lightning.checkpoints.published import WEIGHTS, is_published
from tl_lightning.errors import CheckpointError
from tl_lightning.utils.files import read_json
from tl_lightning.utils.text import shorten

__all__ = ["checkpoint_of", "load_backbone", "load_model", "restored_from"]

#: Settings that change the meaning of backbone weights of the same shape.
_MEANING = ("_target_", "name", "activation", "mean", "std")
#: Settings that change the features given to a head without changing any shape.
_SHAPELESS = ("activation", "pooling", "mean", "std")
#: Prefix of the state of a task's loss, such as class weights.
_NOT_LEARNED = ("loss_fn.", "prior.", "rejection.")
#: Settings that may differ between two runs with the same backbone.
_FREE = ("pretrained", "tag", "weights", "lr_factor", "grad_checkpointing", "checkpoint", "lora")
_CHOICES = {
    "TimmBackbone": "timm",
    "TorchvisionBackbone": "torchvision",
    "ConvNet": "small_cnn",
    "TextBackbone": "hf",
    "MLP": "vector_net",
}


def checkpoint_of(path: Path, key: str = "backbone.checkpoint") -> Path:
    """Return the checkpoint at a path: the file itself, or the one selected by the run there.

    Of a published model it is the file with the weights.

    Args:
        path: A checkpoint file, a run folder, the folder of a published model or, if there is no
            such folder, the name of one on the Hugging Face hub, see :func:`.hub_name`.
        key: Setting that contains the path, for the error message.

    Raises:
        CheckpointError: If no checkpoint is found, or it cannot be downloaded.
        DataError: If the run's ``report.json`` is damaged.
    """
    if path.is_file():
        return path
    if not path.exists() and (name := hub_name(path)):
        path = downloaded(name, key)
    if is_published(path):
        return path / WEIGHTS
    chosen = path / "checkpoints" / "last.ckpt"
    report = path / "report.json"
    selected = read_json(report).get("selection") if report.is_file() else None
    if isinstance(selected, Mapping) and isinstance(selected.get("checkpoint"), str):
        chosen = path / selected["checkpoint"]
    if not chosen.is_file():
        raise CheckpointError(no_checkpoint(path, key))
    return chosen


def load_backbone(backbone: nn.Module, path: Path, node: Mapping[str, Any]) -> None:
    """Load the weights of a backbone from an earlier run.

    Args:
        backbone: Built from ``node``.
        path: A checkpoint file or a run folder.
        node: The ``backbone`` node of the configuration.

    Raises:
        CheckpointError: If no checkpoint is found, or its backbone is a different one.
    """
    file = checkpoint_of(path)
    stored = read_model(file)
    before, state = stored.section("backbone"), stored.part("backbone.")
    rank = (before.get("lora") or {}).get("rank")
    if rank:
        raise CheckpointError(
            f"backbone.checkpoint={path} was trained with backbone.lora.rank={rank}, and warm "
            "starts from LoRA runs are not supported; use a run with backbone.lora.rank=0"
        )
    own = backbone.state_dict()
    fits = own.keys() == state.keys() and all(state[k].shape == own[k].shape for k in own)
    if not fits or any(before.get(key) != node.get(key) for key in _MEANING):
        raise CheckpointError(
            f"backbone.checkpoint={path} contains {_label(before)}, but this run builds "
            f"{_label(node)}; set {_overrides(before, node)}"
        )
    backbone.load_state_dict(state)


def restored_from(
    path: Path, key: str = "backbone.checkpoint", node: Mapping[str, Any] | None = None
) -> Mapping[str, Any]:
    """Return the backbone settings that a checkpoint stores in addition to its weights.

    Args:
        path: A checkpoint file or a run folder.
        key: Setting that contains the path, for the error message.
        node: If given, settings of a backbone with a different name are ignored.
    """
    stored = read_model(checkpoint_of(path, key))
    if node is not None and stored.section("backbone").get("name") != node.get("name"):
        return {}
    return stored.restored_by


def load_model(
    backbone: nn.Module,
    task: nn.Module,
    path: Path,
    sections: Mapping[str, Mapping[str, Any]],
    classes: Sequence[str],
) -> None:
    """Load the weights of backbone and head from an earlier run.

    Args:
        backbone: Built from its section.
        task: Its head is built from the section ``head``.
        path: A checkpoint file or a run folder.
        sections: The settings of ``backbone`` and ``head`` in this run.
        classes: Class names in label order.

    Raises:
        CheckpointError: If no checkpoint is found, or its network or classes are different.
    """
    stored = read_model(checkpoint_of(path, "init"))
    if stored.classes != tuple(classes):
        raise CheckpointError(
            f"init={path} has the classes {shorten(stored.classes)}, but this dataset "
            f"has {shorten(classes)}; use a dataset with the same classes, or "
            f"set backbone.checkpoint={path} to load only the backbone"
        )
    before, now = stored.section("backbone"), sections["backbone"]
    for key in _SHAPELESS:
        if key in before and key in now and before[key] != now[key]:
            raise CheckpointError(
                f"init={path} was trained with backbone.{key}={_as_text(before[key])}, but this "
                f"run has {_as_text(now[key])}; set backbone.{key}={_as_text(before[key])}"
            )
    for part, prefix in ((backbone, "backbone."), (task, "task.")):
        state, own = stored.part(prefix), part.state_dict()
        # What is not learned is determined by the settings and the target of this run.
        state = {k: v for k, v in state.items() if not k.startswith(_NOT_LEARNED)}
        state |= {k: v for k, v in own.items() if k.startswith(_NOT_LEARNED)}
        if own.keys() != state.keys() or any(state[k].shape != own[k].shape for k in own):
            group = "head" if prefix == "task." else "backbone"
            if any(key.endswith(".measured") for key in {*own, *state}):
                raise CheckpointError(
                    f"init={path} has layers for two domains in its {group} and this run has not, "
                    "or the other way round (method=[align] and [relative_bn]); use the same of "
                    "these methods in both runs"
                )
            before, now = stored.section(group), sections[group]
            raise CheckpointError(
                f"init={path} contains a different {group} ({_params(before)}) than this run "
                f"builds ({_params(now)}); use the {group} settings of that run"
            )
        part.load_state_dict(state)


def _params(node: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={_as_text(v)}" for key, v in node.items() if not key.startswith("_"))


def _label(node: Mapping[str, Any]) -> str:
    kind = str(node["_target_"]).rpartition(".")[2]
    return f"{node['name']} ({kind})" if "name" in node else kind


def _overrides(before: Mapping[str, Any], node: Mapping[str, Any]) -> str:
    """Return the command-line overrides that select the checkpoint's backbone."""
    kind = str(before["_target_"]).rpartition(".")[2]
    other = before["_target_"] != node["_target_"]
    changed = [
        f"backbone.{key}={_as_text(value)}"
        for key, value in before.items()
        if not key.startswith("_") and key not in _FREE and (other or value != node.get(key))
    ]
    return " ".join([f"backbone={_CHOICES.get(kind, '<as in that run>')}", *changed])


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
