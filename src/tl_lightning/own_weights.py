"""A backbone from an earlier run of one's own, for new labels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from tl_lightning.callbacks.checkpoint import read_checkpoint
from tl_lightning.errors import CheckpointError

__all__ = ["checkpoint_of", "load_backbone"]


def checkpoint_of(place: Path) -> Path:
    """Return the checkpoint that a path names: a file, or the one that a run has selected.

    Raises:
        CheckpointError: If there is none.
    """
    if place.is_file():
        return place
    chosen = place / "checkpoints" / "last.ckpt"
    report = place / "report.json"
    if report.is_file():
        chosen = place / json.loads(report.read_text())["selection"]["checkpoint"]
    if not chosen.is_file():
        raise CheckpointError(
            f"backbone.checkpoint={place} is neither a checkpoint nor the folder of a run that has "
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
    own = backbone.state_dict()
    unlike = [k for k in own if k not in state or state[k].shape != own[k].shape]
    if unlike or state.keys() - own.keys():
        raise CheckpointError(
            f"backbone.checkpoint={place} holds {_words(theirs)}, this run builds {_words(node)}; "
            f"type backbone={theirs.get('name', '<the same>')} with the settings of that run"
        )
    backbone.load_state_dict(state)


def _words(node: Mapping[str, Any]) -> str:
    kind = str(node["_target_"]).rpartition(".")[2]
    return f"{node['name']} ({kind})" if "name" in node else kind
