"""CIFAR-10 and CIFAR-100: 60,000 images of 32 x 32 pixels each, as files or in memory.

A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", technical report, University
of Toronto, 2009.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

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

__all__ = ["CIFARDataModule"]


class CIFARDataModule(ImageFilesDataModule):
    """CIFAR-10 or CIFAR-100, or with a folder of the same classes or a synthetic shift as target.

    Args:
        variant: ``cifar10`` (10 classes with 5,000 training images each) or ``cifar100`` (100
            classes with 500 training images each).
        download: Whether to download the official archive if the dataset is not found.
        kwargs: See :class:`ImageFilesDataModule`; a ``target`` without values means no target.
    """

    target_optional = True

    def __init__(
        self, *, variant: Literal["cifar10", "cifar100"], download: bool, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        #: torchvision dataset with the names, URL and checksums of the official files.
        self.official: Any = datasets.CIFAR10 if variant == "cifar10" else datasets.CIFAR100
        self.count = 10 if variant == "cifar10" else 100
        self.download = download
        self.taken: Path | None = None

    def domains(self) -> Mapping[str, Domain]:
        """Return the source and, if there is one, the target."""
        return {name: _shifted(domain) for name, domain in super().domains().items()}

    def read(self, domain: str, node: Mapping[str, Any]) -> tuple[str, Layout]:
        """Return the images in class folders, or else the official batches as arrays."""
        root, setting = self.pair.base(domain)
        batches = self.official.base_folder
        what = f"{self.official.__name__} ({{train,test}}/<class>/*, or {batches}/)"
        candidates = (self.official.__name__.lower(), self.official.__name__)
        otherwise = "" if domain == "target" else "data.download=true to fetch 170 MB"
        try:
            found = find_root(
                root, candidates, what, self._accepts, setting=setting, otherwise=otherwise
            )
        except DataError:
            if domain == "target" or not self.download:
                raise
            found = self._fetched(Path(root).expanduser())
        name = str(self.name) if domain == "source" else found.name
        if class_folders(found / "train"):
            layout = read_layout(found, setting, self.pair.on_problem)
        else:
            folder = found if found.name == batches else found / batches
            layout = self._in_memory(folder, domain, setting)
        if len(layout.classes) != self.count:
            self.pair.on_problem(
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

    def _in_memory(self, folder: Path, domain: str, setting: str) -> Layout:
        if domain == "source":
            self.taken = folder.resolve()
        elif folder.resolve() == self.taken:
            self.pair.on_problem(
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
