"""CIFAR-10 and CIFAR-100: 60,000 images of 32 x 32 pixels each, as files or in memory.

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

from tl_lightning.data.datamodules.image_files import ImageFilesDataModule
from tl_lightning.data.domain import Domain, Split
from tl_lightning.data.io.download import download as get
from tl_lightning.data.io.download import extract
from tl_lightning.data.io.folders import class_folders, find_root
from tl_lightning.data.layout import Layout, read_layout
from tl_lightning.errors import DataError

__all__ = ["CIFAR10DataModule", "CIFAR100DataModule"]


class _Cifar(ImageFilesDataModule):
    """CIFAR alone, or with a folder of the same classes or a synthetic shift as the target.

    Args:
        download: Whether to download the official archive if the dataset is not found.
        kwargs: See :class:`ImageFilesDataModule`; a ``target`` without values means no target.
    """

    target_optional = True
    #: torchvision dataset with the names, URL and checksums of the official files.
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
        """Return the images in class folders, or else the official batches as arrays."""
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
            layout = read_layout(found, setting, self.on_problem)
        else:
            folder = found if found.name == batches else found / batches
            layout = self._in_memory(folder, role, setting)
        if len(layout.classes) != self.count:
            self.on_problem(
                f"{found} has {len(layout.classes)} classes, but {self.official.__name__} has "
                f"{self.count}; fix the folder, set {setting}=/the/right/folder, or use "
                "data=folder for other images"
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
            self.on_problem(
                f"data.source and data.target both use {folder}; set another data.target.root, or "
                "data.target.root=null"
            )
        try:
            # Compares the checksums of all batches before unpickling them.
            train, test = (self.official(str(folder.parent), train=part) for part in (True, False))
        except RuntimeError as error:
            raise DataError(
                f"a batch in {folder} is missing or has a wrong checksum; remove the folder and "
                f"set data.download=true, or set {setting}=/another/folder"
            ) from error
        classes = tuple(str(name) for name in train.classes)
        return Layout(classes, _split("train", train, classes), None, _split("test", test, classes))


class CIFAR10DataModule(_Cifar):
    """CIFAR-10: 10 classes with 5,000 images each for training and 1,000 for testing.

    Args:
        kwargs: ``download`` (whether to fetch the archive); see :class:`ImageFilesDataModule`.
    """

    official = datasets.CIFAR10
    count = 10
    megabytes = 170


class CIFAR100DataModule(_Cifar):
    """CIFAR-100: 100 classes with 500 images each for training and 100 for testing.

    Args:
        kwargs: ``download`` (whether to fetch the archive); see :class:`ImageFilesDataModule`.
    """

    official = datasets.CIFAR100
    count = 100
    megabytes = 169


def _split(split: str, given: Any, classes: tuple[str, ...]) -> Split:
    labels = np.asarray(given.targets, dtype=np.int64)
    names = [f"{split}/{classes[label]}/{index:05d}" for index, label in enumerate(labels)]
    return Split(np.ascontiguousarray(given.data), labels, names)


def _shifted(domain: Domain) -> Domain:
    """Apply a synthetic shift to images in memory once, as they are small."""
    changed: dict[str, Any] = {
        name: _applied(split)
        for name, split in domain.splits().items()
        if split.change is not None and isinstance(split.samples, np.ndarray)
    }
    return replace(domain, **changed)


def _applied(split: Split) -> Split:
    assert split.change is not None
    pixels = np.empty_like(np.asarray(split.samples))
    for index, image in enumerate(np.asarray(split.samples)):
        changed = split.change(torch.tensor(image).permute(2, 0, 1), index)
        pixels[index] = changed.permute(1, 2, 0).numpy()
    return replace(split, samples=pixels, change=None)
