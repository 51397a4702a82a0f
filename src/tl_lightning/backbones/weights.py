"""Weights from a file, without executing anything in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tl_lightning.errors import CheckpointError

__all__ = ["load_weights", "read_weights"]


def read_weights(path: str) -> dict[str, Tensor]:
    """Read a state dict from ``.safetensors`` or a torch file, without executing any code in it.

    Raises:
        CheckpointError: If the file is missing, unreadable, or holds something else.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(
            f"no weights file at backbone.weights={path}; "
            "type the path of a .pth, .pt or .safetensors file"
        )
    try:
        state: Any = (
            load_file(file)
            if file.suffix == ".safetensors"
            else torch.load(file, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # torch and safetensors raise many kinds for a bad file
        raise CheckpointError(
            f"cannot read backbone.weights={path}: {type(error).__name__}; it must be a "
            "safetensors file or a torch file that holds tensors only"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(torch.is_tensor(v) for v in state.values()):
        raise CheckpointError(f"backbone.weights={path} holds no state dict of tensors")
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def load_weights(net: nn.Module, path: str, classifier: str) -> None:
    """Load a file into ``net``; only the old classifier (under ``classifier``) may be left over."""
    state = read_weights(path)
    own = net.state_dict()
    fitting = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    missing = [k for k in own if k not in fitting and not k.endswith("num_batches_tracked")]
    if missing:
        raise CheckpointError(
            f"backbone.weights={path} does not fit this backbone: {len(missing)} of {len(own)} "
            f"tensors are missing or of another shape, such as {missing[0]}"
        )
    alien = [k for k in state if k not in own and not k.startswith(classifier)]
    if alien:
        raise CheckpointError(
            f"backbone.weights={path} does not fit this backbone: it also holds {alien[0]} "
            f"and {len(alien) - 1} more tensors that the backbone has no place for"
        )
    net.load_state_dict(fitting, strict=False)
