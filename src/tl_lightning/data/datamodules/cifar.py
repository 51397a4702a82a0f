"""CIFAR-10 and CIFAR-100: 60,000 pictures of 32 x 32 pixels, as files or in memory.

A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", technical report, University
of Toronto, 2009.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torchvision import datasets

from tl_lightning.data.datamodules.image_files import FileData
from tl_lightning.data.domain import Domain, Split
from tl_lightning.data.io.download import download as get
from tl_lightning.data.io.download import extract
from tl_lightning.data.io.folders import class_folders, find_root
from tl_lightning.data.layout import Layout, read_layout
from tl_lightning.errors import DataError

__all__ = ["Cifar10", "Cifar100"]


class _Cifar(FileData):
    """One of the two, alone, to another folder of its classes, or to a synthetic shift.

    Args:
        download: Whether to fetch the official archive if ``root`` does not hold the data set.
        kwargs: As in :class:`FileData`. A ``target`` without root and shift is no target.
    """

    target_optional = True
    #: Knows the official files' names, address and checksums.
    official: ClassVar[Any]
    count: ClassVar[int]
    megabytes: ClassVar[int]

    def __init__(self, *, download: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.download = download
        self.taken: Path | None = None

    def domains(self) -> Mapping[str, Domain]:
        """Return the source and, if there is one, the target."""
        return {role: _shifted(domain) for role, domain in super().domains().items()}

    def read(self, role: str, node: Mapping[str, Any]) -> tuple[str, Layout]:
        """Return the class folders found, or else the official batches as arrays."""
        root, setting = self.base(role, node)
        batches = self.official.base_folder
        what = f"{self.official.__name__} ({{train,test}}/<class>/*, or {batches}/)"
        candidates = (self.official.__name__.lower(), self.official.__name__)
        otherwise = "" if role == "target" else f"data.download=true to fetch {self.megabytes} MB"
        try:
            found = find_root(
                root, candidates, what, self._accepts, setting=setting, otherwise=otherwise
            )
        except DataError:
            if role == "target" or not self.download:
                raise
            found = self._fetched(Path(root).expanduser())
        name = str(self.name) if role == "source" else found.name
        if class_folders(found / "train"):
            layout = read_layout(found, setting, self.complain)
        else:
            folder = found if found.name == batches else found / batches
            layout = self._in_memory(folder, role, setting)
        if len(layout.classes) != self.count:
            self.complain(
                f"{found} holds {len(layout.classes)} classes, but {self.official.__name__} has "
                f"{self.count}; mend the folder, type {setting}=/the/right/folder, or "
                "data=folder for other pictures"
            )
        return name, layout

    def _accepts(self, folder: Path) -> bool:
        batches = folder if folder.name == self.official.base_folder else None
        batches = batches or folder / self.official.base_folder
        first = self.official.train_list[0][0]
        return bool(class_folders(folder / "train")) or (batches / first).is_file()

    def _fetched(self, root: Path) -> Path:
        url, batches = self.official.url, self.official.base_folder
        archive = get(
            url,
            root / self.official.filename,
            checksum=f"md5:{self.official.tgz_md5}",
            size=None,
            elsewhere=f"another mirror of {self.official.__name__} ({self.official.filename})",
        )
        extract(archive, root / batches, inside=batches)
        return root

    def _in_memory(self, folder: Path, role: str, setting: str) -> Layout:
        if role == "source":
            self.taken = folder.resolve()
        elif folder.resolve() == self.taken:
            self.complain(
                f"data.source and data.target both hold {folder}: the same pictures in both "
                "domains; type another data.target.root, or leave it null"
            )
        try:
            # Compares every batch's checksum before anything is unpickled.
            train, test = (self.official(str(folder.parent), train=part) for part in (True, False))
        except RuntimeError as error:
            raise DataError(
                f"{folder} lacks a batch, or one's checksum is not the official one; remove it and "
                f"type data.download=true, or {setting}=/another/folder"
            ) from error
        classes = tuple(str(name) for name in train.classes)
        return Layout(classes, _split("train", train, classes), None, _split("test", test, classes))


class Cifar10(_Cifar):
    """CIFAR-10: 10 classes with 5,000 pictures each for training and 1,000 for testing.

    Args:
        kwargs: As in :class:`FileData`, and ``download``: whether to fetch the official archive.
    """

    official = datasets.CIFAR10
    count = 10
    megabytes = 170


class Cifar100(_Cifar):
    """CIFAR-100: 100 classes with 500 pictures each for training and 100 for testing.

    Args:
        kwargs: As in :class:`FileData`, and ``download``: whether to fetch the official archive.
    """

    official = datasets.CIFAR100
    count = 100
    megabytes = 169


def _split(split: str, given: Any, classes: tuple[str, ...]) -> Split:
    labels = np.asarray(given.targets, dtype=np.int64)
    names = [f"{split}/{classes[label]}/{index:05d}" for index, label in enumerate(labels)]
    return Split(np.ascontiguousarray(given.data), labels, names)


def _shifted(domain: Domain) -> Domain:
    """Apply a synthetic shift to pictures in memory, once: they are small."""
    changed: dict[str, Any] = {
        name: _applied(split)
        for name, split in domain.splits().items()
        if split.change is not None and isinstance(split.pictures, np.ndarray)
    }
    return replace(domain, **changed)


def _applied(split: Split) -> Split:
    assert split.change is not None
    pixels = np.empty_like(np.asarray(split.pictures))
    for index, picture in enumerate(np.asarray(split.pictures)):
        changed = split.change(torch.tensor(picture).permute(2, 0, 1), index)
        pixels[index] = changed.permute(1, 2, 0).numpy()
    return replace(split, pictures=pixels, change=None)
