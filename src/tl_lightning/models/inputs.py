"""Form, normalisation and concatenation of input batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from tl_lightning.errors import DataError
from tl_lightning.types import Batch, InputSpec, Spec, Stream

__all__ = ["Normalise", "as_batch", "joined", "training_batches"]


class Normalise(nn.Module):
    """Scales uint8 images to [0, 1] and normalises them with the backbone's mean and std.

    Tokens and vectors are left unchanged, and without a spec everything is.

    Args:
        spec: Input format of the backbone, or None.
        layout: Memory format of the images.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: Spec | None, layout: torch.memory_format) -> None:
        super().__init__()
        self.images = isinstance(spec, InputSpec)
        self.layout = layout
        if isinstance(spec, InputSpec):
            for name, values in (("mean", spec.mean), ("std", spec.std)):
                self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return normalised images ``(B, C, H, W)``; inputs that are not uint8 are unchanged."""
        if not self.images or inputs.dtype != torch.uint8:
            return inputs
        scaled = inputs.to(self.mean.dtype).div(255.0).sub(self.mean).div(self.std)
        return scaled.contiguous(memory_format=self.layout)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate batches; token ids ``(B, L)`` are padded with -1 to the longest ``L``.

    >>> joined([torch.tensor([[5]]), torch.tensor([[6, 7]])])
    tensor([[ 5, -1],
            [ 6,  7]])
    """
    if not (parts[0].dim() == 2 and parts[0].dtype == torch.int64):
        return torch.cat(list(parts))
    longest = max(part.shape[1] for part in parts)
    return torch.cat([pad(part, (0, longest - part.shape[1]), value=-1) for part in parts])


def as_batch(part: Any) -> Batch:
    """Return one domain's batch: inputs, or a pair of inputs and labels, as :class:`Batch`.

    Raises:
        DataError: If it is of another form.

    >>> as_batch([torch.zeros(2, 3), torch.tensor([0, 1])])["labels"]
    tensor([0, 1])
    """
    if isinstance(part, Mapping) and "inputs" in part:
        return {"index": _positions(part["inputs"]), **part}  # type: ignore[typeddict-item]
    if isinstance(part, Tensor):
        return {"inputs": part, "index": _positions(part)}
    if isinstance(part, list | tuple) and all(isinstance(item, Tensor) for item in part):
        if len(part) == 1:
            return as_batch(part[0])
        if len(part) == 2:
            return {"inputs": part[0], "labels": part[1], "index": _positions(part[0])}
    raise DataError(
        "a batch of one domain must be a tensor of inputs, a pair (inputs, labels), or a mapping "
        f"with the key inputs; got {_form(part)}"
    )


def training_batches(batch: Any, train_on: Sequence[str]) -> dict[str, Batch]:
    """Return the batches by stream; labels of the target are removed.

    Args:
        batch: A mapping from stream to batch; a plain batch if ``train_on`` is one domain.
        train_on: Domains that the model trains on.

    Raises:
        DataError: If a domain is missing.
    """
    if not (isinstance(batch, Mapping) and "inputs" not in batch):
        if len(train_on) != 1:
            raise DataError(
                f"a training batch must have the keys {', '.join(train_on)}; got {_form(batch)}; "
                "pass train_dataloaders={"
                + ", ".join(f'"{name}": <DataLoader>' for name in train_on) + "}"
            )  # fmt: skip
        batch = {train_on[0]: batch}
    if missing := [name for name in train_on if name not in batch]:
        raise DataError(
            f"a training batch has no key {missing[0]}; got {', '.join(map(str, batch))}; pass a "
            f"DataLoader for each of {', '.join(train_on)}"
        )
    found = {str(name): as_batch(part) for name, part in batch.items()}
    if Stream.TARGET in found:
        found[Stream.TARGET].pop("labels", None)
    return found


def _positions(inputs: Tensor) -> Tensor:
    return torch.arange(len(inputs), device=inputs.device)


def _form(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a mapping with the keys {', '.join(map(str, value))}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)} ({', '.join(map(_name, value))})"
    return _name(value)


def _name(value: Any) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
