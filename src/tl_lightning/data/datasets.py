"""Datasets that return whole batches of uint8 images from paths or pixels."""

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
from tl_lightning.data.io.images import fitted, open_image
from tl_lightning.data.transforms.geometry import Geometry
from tl_lightning.types import InputSpec
from tl_lightning.utils.seeding import mix_text

__all__ = [
    "ArrayDataset",
    "ImageDataset",
    "Reader",
    "SplitReader",
    "aux_batch",
    "collate",
    "resize_pixels",
    "tensors",
]

#: Maps an index in a split to an image ``(3, H, W)`` uint8.
Reader = Callable[[int], Tensor]


@dataclass(frozen=True)
class SplitReader:
    """Reader of a split's images without a cache.

    Args:
        split: Split of paths or pixels.
        shorter: Shorter side that images are downscaled to, or None for the original size.
        spec: Input specification of the backbone.
    """

    split: Split
    shorter: int | None
    spec: InputSpec

    def __call__(self, place: int) -> Tensor:
        """Return the image at index ``place``; raises DataError if the file cannot be read."""
        samples = self.split.samples
        if isinstance(samples, np.ndarray):
            image = torch.from_numpy(samples[place]).permute(2, 0, 1)
        else:
            image = open_image(Path(samples[place]), self.shorter, self.split.white)
        if self.split.change is not None:
            image = self.split.change(image, mix_text(self.split.names[place]))
        return image if self.shorter is None else fitted(image, self.shorter, self.spec)


class ImageDataset(Dataset[dict[str, Any]]):
    """Dataset of images of any size, cropped to the input size of the backbone.

    Args:
        split: Provides labels and number of samples.
        read: Returns an image by its index in the split.
        geometry: Cropping and resizing.
        size: Input size of the backbone in pixels.
        seeded: Whether batches contain the seeds of their samples, for augmentation on the device.
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
        self.aux_labels = tensors(split.aux_labels)

    @property
    def remote(self) -> bool:
        """Whether workers read from an address, whose clients do not survive a fork."""
        return False

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        return {name: first_of(part) for name, part in self.__getitems__([key]).items()}

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> dict[str, Any]:
        """Return one batch for the given ``(index, seed)`` pairs."""
        index, seeds = [key[0] for key in keys], [key[1] for key in keys]
        out = _shared((len(keys), self.size, self.size, 3))
        images, labels = self.fetch(index)
        self.geometry(images, seeds, out)
        batch: dict[str, Any] = {"inputs": out.permute(0, 3, 1, 2), "index": torch.tensor(index)}
        if self.seeded:
            batch["seeds"] = seeds  # a list, so that it is not moved to the device
        if labels is not None:
            batch["labels"] = labels
        return batch | aux_batch(self.aux_labels, index)

    def fetch(self, places: Sequence[int]) -> tuple[list[Tensor], Tensor | None]:
        """Return the images at these indices and their labels, or None without labels."""
        labels = None if self.labels is None else self.labels[torch.tensor(places)]
        return [self.read(place) for place in places], labels


class ArrayDataset(Dataset[dict[str, Any]]):
    """Dataset of small images in memory, whose batches are single indexing operations.

    Args:
        split: Split of pixels ``(N, H, W, 3)`` uint8 that have the input size of the backbone.
        seeded: As in :class:`ImageDataset`.
    """

    def __init__(self, split: Split, seeded: bool = False) -> None:
        self.seeded = seeded
        pixels = np.ascontiguousarray(np.asarray(split.samples).transpose(0, 3, 1, 2))
        self.inputs = torch.from_numpy(pixels)
        self.labels = None if split.labels is None else torch.from_numpy(split.labels.copy())
        self.aux_labels = tensors(split.aux_labels)

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
        return batch | aux_batch(self.aux_labels, index)


class EvalDataset(Dataset[dict[str, Any]]):
    """Wrapper that marks the padding samples of a rank's last batch with ``index`` -1.

    Args:
        dataset: Dataset of a split.
        domains: ``(N,)`` index of each sample's domain, or None if there is only one.
    """

    def __init__(
        self, dataset: ImageDataset | ArrayDataset, domains: NDArray[np.int64] | None = None
    ) -> None:
        self.dataset = dataset
        self.domains = None if domains is None else torch.from_numpy(domains.copy())

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> dict[str, Any]:
        """Return one batch for the given ``(index, valid)`` pairs."""
        batch = self.dataset.__getitems__([(index, 0) for index, _ in keys])
        valid = torch.tensor([bool(v) for _, v in keys])
        if self.domains is not None:
            batch["domain"] = self.domains[batch["index"]]
        batch["index"] = torch.where(valid, batch["index"], -1)
        return batch


def tensors(aux_labels: Mapping[str, NDArray[Any]] | None) -> dict[str, Tensor]:
    """Return auxiliary labels as tensors by name."""
    return {name: torch.from_numpy(values.copy()) for name, values in (aux_labels or {}).items()}


def aux_batch(aux_labels: Mapping[str, Tensor], places: Sequence[int] | Tensor) -> dict[str, Any]:
    """Return the batch entry of the auxiliary labels at these indices; empty without any."""
    if not aux_labels:
        return {}
    index = torch.as_tensor(places)
    return {"aux_labels": {name: values[index] for name, values in aux_labels.items()}}


def first_of(part: Any) -> Any:
    """Return the first sample of a part of a batch."""
    if isinstance(part, dict):
        return {name: first_of(value) for name, value in part.items()}
    return part[0]


def collate(samples: Any) -> Any:
    """Return the batch unchanged, because datasets fetch whole batches."""
    return samples


def resize_pixels(pixels: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.uint8]:
    """Resize pixels ``(N, H, W, 3)`` to the backbone's input size, unless they have this size."""
    if pixels.shape[1:3] == (spec.size, spec.size):
        return pixels
    out = np.empty((len(pixels), spec.size, spec.size, 3), dtype=np.uint8)
    for start in range(0, len(pixels), 1024):
        chunk = torch.from_numpy(np.ascontiguousarray(pixels[start : start + 1024]))
        images: Tensor = chunk.permute(0, 3, 1, 2).float()
        mode = "bicubic" if spec.interpolation == "bicubic" else "bilinear"
        size = (spec.size, spec.size)
        images = functional.interpolate(images, size, mode=mode, antialias=True)
        rounded = images.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        out[start : start + 1024] = rounded.numpy()
    return out


def _shared(shape: tuple[int, ...]) -> Tensor:
    """Return an empty uint8 tensor, which is in shared memory in a worker to avoid a copy."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(math.prod(shape))  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)
