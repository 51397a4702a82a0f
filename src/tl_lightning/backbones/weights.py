"""Loading of weights from files without executing code."""

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
    """Read a state dict from a ``.safetensors`` or torch file without executing code in it.

    Raises:
        CheckpointError: If the file is missing or unreadable, or is not a state dict.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(
            f"backbone.weights={path} not found; set backbone.weights to the path of a .pth, .pt "
            "or .safetensors file"
        )
    try:
        state: Any = (
            load_file(file)
            if file.suffix == ".safetensors"
            else torch.load(file, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # torch and safetensors raise various exceptions
        raise CheckpointError(
            f"cannot read backbone.weights={path}: {type(error).__name__}; the file must be a "
            "safetensors file or a torch file with only tensors"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(torch.is_tensor(v) for v in state.values()):
        raise CheckpointError(f"backbone.weights={path} is not a state dict of tensors")
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def load_weights(net: nn.Module, path: str, classifier: str) -> None:
    """Load a weights file into ``net``; only tensors named ``classifier*`` may be left over."""
    state = read_weights(path)
    target = net.state_dict()
    matching = {k: v for k, v in state.items() if k in target and target[k].shape == v.shape}
    missing = [k for k in target if k not in matching and not k.endswith("num_batches_tracked")]
    if missing:
        raise CheckpointError(
            f"backbone.weights={path} does not fit this backbone: {len(missing)} of "
            f"{len(target)} tensors are missing or have another shape, such as {missing[0]}"
        )
    unexpected = [k for k in state if k not in target and not k.startswith(classifier)]
    if unexpected:
        raise CheckpointError(
            f"backbone.weights={path} does not fit this backbone: it has {len(unexpected)} "
            f"unexpected tensor(s), such as {unexpected[0]}"
        )
    net.load_state_dict(matching, strict=False)
