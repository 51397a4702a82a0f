"""From a split (paths or pixels) to batches, as ``uint8``; the device does the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset, get_worker_info

from tl_lightning.data.domain import Split
from tl_lightning.data.io.images import fitted, open_picture
from tl_lightning.data.transforms.geometry import Geometry
from tl_lightning.types import InputSpec
from tl_lightning.utils.seeding import mix_text

__all__ = [
    "ArrayDataset",
    "PictureDataset",
    "Reader",
    "SplitReader",
    "collate",
    "further",
    "resize_pixels",
    "tensors",
]

#: From a place in a split to its picture ``(3, H, W)`` uint8.
Reader = Callable[[int], Tensor]


@dataclass(frozen=True)
class SplitReader:
    """Reads the pictures of a split where nothing is cached.

    Args:
        split: Its ``pictures`` are paths or pixels.
        shorter: The shorter side that serves, or None for pictures as large as they are.
        spec: What the backbone expects.
    """

    split: Split
    shorter: int | None
    spec: InputSpec

    def __call__(self, place: int) -> Tensor:
        """Return the picture at a place; raises DataError naming the file if it cannot be read."""
        pictures = self.split.pictures
        if isinstance(pictures, np.ndarray):
            picture = torch.from_numpy(pictures[place]).permute(2, 0, 1)
        else:
            picture = open_picture(Path(pictures[place]), self.shorter)
        if self.split.change is not None:
            picture = self.split.change(picture, mix_text(self.split.names[place]))
        return picture if self.shorter is None else fitted(picture, self.shorter, self.spec)


class PictureDataset(Dataset[dict[str, Any]]):
    """Pictures of any size, cropped to the backbone's, a batch at a time.

    Args:
        split: Labels and number of the pictures.
        read: Gives a picture by its place in the split.
        geometry: Crops them.
        size: The backbone's, in pixels.
        seeded: Whether batches carry their samples' seeds, for what is drawn on the device.
    """

    def __init__(
        self, split: Split, read: Reader, geometry: Geometry, size: int, seeded: bool = False
    ) -> None:
        self.read = read
        self.geometry = geometry
        self.size = size
        self.seeded = seeded
        self.length = len(split)
        self.labels = None if split.labels is None else torch.from_numpy(split.labels.copy())
        self.others = tensors(split.others)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        return {name: first_of(part) for name, part in self.__getitems__([key]).items()}

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> dict[str, Any]:
        """Return one batch for the given ``(index, seed)`` pairs."""
        index, seeds = [key[0] for key in keys], [key[1] for key in keys]
        out = _shared((len(keys), self.size, self.size, 3))
        pictures, labels = self.fetch(index)
        self.geometry(pictures, seeds, out)
        batch: dict[str, Any] = {"inputs": out.permute(0, 3, 1, 2), "index": torch.tensor(index)}
        if self.seeded:
            batch["seeds"] = seeds  # a list: it stays with the host, where the draws are made
        if labels is not None:
            batch["labels"] = labels
        return batch | further(self.others, index)

    def fetch(self, places: Sequence[int]) -> tuple[list[Tensor], Tensor | None]:
        """Return the pictures at these places and, where there are any, their labels."""
        labels = None if self.labels is None else self.labels[torch.tensor(places)]
        return [self.read(place) for place in places], labels


class ArrayDataset(Dataset[dict[str, Any]]):
    """Small pictures in memory, all of the backbone's size: a batch is one look-up.

    Args:
        split: Its ``pictures`` are pixels ``(N, H, W, 3)`` uint8, already of the backbone's size.
        seeded: As in :class:`PictureDataset`.
    """

    def __init__(self, split: Split, seeded: bool = False) -> None:
        self.seeded = seeded
        pixels = np.ascontiguousarray(np.asarray(split.pictures).transpose(0, 3, 1, 2))
        self.inputs = torch.from_numpy(pixels)
        self.labels = None if split.labels is None else torch.from_numpy(split.labels.copy())
        self.others = tensors(split.others)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        return {name: first_of(part) for name, part in self.__getitems__([key]).items()}

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> dict[str, Any]:
        """Return one batch for the given ``(index, seed)`` pairs."""
        index = torch.tensor([key[0] for key in keys])
        batch: dict[str, Any] = {"inputs": self.inputs[index], "index": index}
        if self.seeded:
            batch["seeds"] = [key[1] for key in keys]
        if self.labels is not None:
            batch["labels"] = self.labels[index]
        return batch | further(self.others, index)


class EvalDataset(Dataset[dict[str, Any]]):
    """Marks the samples that only fill up a rank's last batch with ``index`` -1."""

    def __init__(self, dataset: PictureDataset | ArrayDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> dict[str, Any]:
        """Return one batch for the given ``(index, valid)`` pairs."""
        batch = self.dataset.__getitems__([(index, 0) for index, _ in keys])
        valid = torch.tensor([bool(v) for _, v in keys])
        batch["index"] = torch.where(valid, batch["index"], -1)
        return batch


def tensors(others: Mapping[str, NDArray[Any]] | None) -> dict[str, Tensor]:
    """Return further labels as tensors; none where there are none."""
    return {name: torch.from_numpy(values.copy()) for name, values in (others or {}).items()}


def further(others: Mapping[str, Tensor], places: Sequence[int] | Tensor) -> dict[str, Any]:
    """Return what a batch of these places holds of further labels."""
    if not others:
        return {}
    index = torch.as_tensor(places)
    return {"others": {name: values[index] for name, values in others.items()}}


def first_of(part: Any) -> Any:
    """Return the first sample of what a batch holds."""
    if isinstance(part, dict):
        return {name: first_of(value) for name, value in part.items()}
    return part[0]


def collate(samples: Any) -> Any:
    """Leave a batch as it is: every dataset here fetches it whole."""
    return samples


def resize_pixels(pixels: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.uint8]:
    """Resize pixels ``(N, H, W, 3)`` held in memory to the backbone's size; a no-op if they fit."""
    if pixels.shape[1:3] == (spec.size, spec.size):
        return pixels
    out = np.empty((len(pixels), spec.size, spec.size, 3), dtype=np.uint8)
    for start in range(0, len(pixels), 1024):
        chunk = torch.from_numpy(np.ascontiguousarray(pixels[start : start + 1024]))
        moved: Tensor = chunk.permute(0, 3, 1, 2).float()
        mode = "bicubic" if spec.interpolation == "bicubic" else "bilinear"
        size = (spec.size, spec.size)
        moved = functional.interpolate(moved, size, mode=mode, antialias=True)
        rounded = moved.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        out[start : start + 1024] = rounded.numpy()
    return out


def _shared(shape: tuple[int, ...]) -> Tensor:
    """Return an empty uint8 tensor; in a worker, in memory that the main process sees as it is."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(math.prod(shape))  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)
