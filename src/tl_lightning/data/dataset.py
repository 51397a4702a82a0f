"""From a split (paths or pixels) to samples, as ``uint8``; the device does the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from tl_lightning.data.pixels import PixelAugment
from tl_lightning.data.reading import open_picture

__all__ = ["ArrayDataset", "Domain", "FileDataset", "Split", "collate"]

Transform = Callable[[Tensor], Tensor]
Change = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Split:
    """One split of one domain.

    Attributes:
        pictures: Paths, or pixels ``(N, H, W, 3)`` uint8.
        labels: ``(N,)`` class indices, or None where there are none.
        names: A stable name of each picture, relative to the domain's root.
        change: A fixed change of every picture (a synthetic shift): ``change(picture, seed)``.
    """

    pictures: Sequence[Path] | NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    names: Sequence[str]
    change: Change | None = None

    def __len__(self) -> int:
        return len(self.pictures)

    def without_labels(self) -> Split:
        """Return the same pictures with the labels gone (not hidden)."""
        return replace(self, labels=None)

    def subset(self, keep: Sequence[int]) -> Split:
        """Return the samples at ``keep``, in that order."""
        chosen = np.asarray(keep, dtype=np.int64)
        pictures: Any = (
            self.pictures[chosen]
            if isinstance(self.pictures, np.ndarray)
            else [self.pictures[i] for i in chosen]
        )
        labels = None if self.labels is None else self.labels[chosen]
        return replace(
            self, pictures=pictures, labels=labels, names=[self.names[i] for i in chosen]
        )


@dataclass(frozen=True)
class Domain:
    """One domain with its splits.

    Attributes:
        name: What the report calls it.
        classes: Class names; labels index them.
        train, val, test: The splits; no picture is in two of them.
        note: A sentence that the report must show (for instance "synthetic shift").
        labelled: Of a target: the few training pictures that keep their labels, or None.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    note: str = ""
    labelled: Split | None = None

    def splits(self) -> dict[str, Split]:
        """Return its splits by name."""
        found = {"train": self.train, "val": self.val, "test": self.test}
        return found if self.labelled is None else {**found, "labelled": self.labelled}

    def paths(self) -> list[Path]:
        """Return every file of every split once."""
        return list(dict.fromkeys(Path(p) for s in self.splits().values() for p in s.pictures))


class FileDataset(Dataset[dict[str, Any]]):
    """Pictures on disk: decode, shift, transform with this sample's own random numbers.

    Args:
        split: Its ``pictures`` are paths.
        transform: From uint8 ``(3, H, W)`` to uint8 ``(3, size, size)``; may draw from torch's
            global generator, which is seeded for each sample and restored afterwards.
    """

    def __init__(self, split: Split, transform: Transform) -> None:
        self.split = split
        self.transform = transform

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        index, seed = key
        path = self.split.pictures[index]
        picture = open_picture(Path(path))
        if self.split.change is not None:
            picture = self.split.change(picture, index)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            picture = self.transform(picture)
        sample: dict[str, Any] = {"inputs": picture, "index": index}
        if self.split.labels is not None:
            sample["labels"] = int(self.split.labels[index])
        return sample


class ArrayDataset(Dataset[dict[str, Any]]):
    """Pictures in memory, fetched a whole batch at a time (small pictures, many steps).

    Args:
        split: Its ``pictures`` are pixels ``(N, H, W, 3)`` uint8, already of the backbone's size.
        augment: Changes a batch by its samples' seeds; None in evaluation.
    """

    def __init__(self, split: Split, augment: PixelAugment | None = None) -> None:
        self.augment = augment
        pixels = np.ascontiguousarray(np.asarray(split.pictures).transpose(0, 3, 1, 2))
        self.inputs = torch.from_numpy(pixels)
        self.labels = None if split.labels is None else torch.from_numpy(split.labels.copy())

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        return {name: value[0] for name, value in self.__getitems__([key]).items()}

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        """Return one batch for the given ``(index, seed)`` pairs."""
        index = torch.tensor([key[0] for key in keys])
        inputs = self.inputs[index]
        if self.augment is not None:
            inputs = self.augment(inputs, [key[1] for key in keys])
        batch = {"inputs": inputs, "index": index}
        if self.labels is not None:
            batch["labels"] = self.labels[index]
        return batch


class EvalDataset(Dataset[dict[str, Any]]):
    """Marks the samples that only fill up a rank's last batch with ``index`` -1."""

    def __init__(self, dataset: FileDataset | ArrayDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        """Return one batch for the given ``(index, valid)`` pairs."""
        seeded = [(index, 0) for index, _ in keys]
        if isinstance(self.dataset, ArrayDataset):
            batch = self.dataset.__getitems__(seeded)
        else:
            batch = default_collate([self.dataset[key] for key in seeded])
        valid = torch.tensor([bool(v) for _, v in keys])
        batch["index"] = torch.where(valid, batch["index"], -1)
        return batch


def collate(samples: Any) -> Any:
    """Leave a batch fetched whole as it is, stack samples fetched one by one."""
    return samples if isinstance(samples, dict) else default_collate(samples)
