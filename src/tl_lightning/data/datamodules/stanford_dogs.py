"""Stanford Dogs: 120 breeds, with a real or synthetic second domain.

A. Khosla, N. Jayadevaprakash, B. Yao and L. Fei-Fei, "Novel Dataset for Fine-Grained Image
Categorization", First Workshop on Fine-Grained Visual Categorization, CVPR 2011. All images are
from the training set of ImageNet, so pretrained backbones have seen them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tl_lightning.data.datamodules.image_files import ImageFilesDataModule
from tl_lightning.data.io.download import download, extract, find_or_fetch
from tl_lightning.data.io.folders import (
    OnProblem,
    class_folders,
    find_root,
    raise_problem,
    scan_classes,
)
from tl_lightning.data.layout import Layout, listed_layout, read_layout, split_of
from tl_lightning.errors import DataError

__all__ = ["StanfordDogsDataModule", "fetch", "read_dogs"]

URL = "http://vision.stanford.edu/aditya86/ImageNetDogs"
# Sizes and SHA-256 digests as in `stanford_dogs` of TensorFlow Datasets.
ARCHIVES = {
    "lists.tar": (481_280, "34b47cacd9a98b5d150e084f24d29391c084c55272295ec65c85651bc35f4d6c"),
    "images.tar": (793_579_520, "a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58"),
}
ELSEWHERE = "another mirror of Stanford Dogs (its images.tar and lists.tar)"
FOLDERS = ("dogs", "stanford_dogs", "StanfordDogs", "stanford-dogs")
WHAT = (
    "Stanford Dogs (Images/<class>/*.jpg with or without train_list.mat and test_list.mat, "
    "or train/<class>/*.jpg with or without val/ and test/)"
)


class StanfordDogsDataModule(ImageFilesDataModule):
    """Stanford Dogs alone, or with a folder of the same breeds or a synthetic shift as target.

    Args:
        download: Whether to download the official archives (757 MB) if they are not found.
        kwargs: See :class:`ImageFilesDataModule`.
    """

    overlap = "Stanford Dogs is part of the ImageNet training set"

    def __init__(self, *, download: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.download = download

    def read(self, domain: str, node: Mapping[str, Any]) -> tuple[str, Layout]:
        """Return the images of the source, or of the target folder."""
        root, setting = self.pair.base(domain)
        if domain == "target":
            what = f"{WHAT[:-1]}, or <class>/*.jpg)"
            found = find_root(root, FOLDERS, what, _is_any, setting=setting)
            return found.name, read_dogs(found, setting, self.pair.on_problem)
        found = find_or_fetch(
            lambda hint: find_root(
                root, FOLDERS, WHAT, _is_dataset, setting=setting, otherwise=hint
            ),
            lambda: fetch(Path(root).expanduser() / "stanford_dogs"),
            wanted=self.download,
            megabytes=757,
        )
        return "dogs", read_dogs(found, setting, self.pair.on_problem)


def fetch(root: Path) -> Path:
    """Download the official archives and extract them in ``root``, unless already done."""
    # Lists first: Images/ without them would be split by a hash of the names.
    for archive, inside, folder in (("lists.tar", "", "lists"), ("images.tar", "Images", "Images")):
        if not (root / folder).is_dir():
            size, digest = ARCHIVES[archive]
            path = download(
                f"{URL}/{archive}",
                root / archive,
                checksum=f"sha256:{digest}",
                size=size,
                elsewhere=ELSEWHERE,
            )
            extract(path, root / folder, inside=inside)
    return root


def read_dogs(
    root: Path, setting: str = "data.root", on_problem: OnProblem = raise_problem
) -> Layout:
    """Read the breeds and splits of a folder in any supported layout.

    Raises:
        DataError: If no class folders are found or a list cannot be read; other problems are
            passed to ``on_problem``.
    """
    if not (root / "Images").is_dir():
        return read_layout(root, setting, on_problem)
    scanned = scan_classes(root / "Images", setting=setting, on_problem=on_problem)
    classes = tuple(scanned)
    lists = next((d for d in (root / "lists", root) if (d / "train_list.mat").is_file()), None)
    if lists is None:
        return Layout(classes, split_of(root, classes, scanned), None, None)
    available = {
        f"{path.parent.name}/{path.name}": (name, path)
        for name, paths in scanned.items()
        for path in paths
    }
    advice = (
        "extract images.tar again, remove the lists to split by a hash of the names, or set "
        f"{setting}=/another/folder"
    )
    files = [lists / f"{split}_list.mat" for split in ("train", "test")]
    names = {file: _read_list(file, setting) for file in files}
    return listed_layout(root, available, names, on_problem, where=root / "Images", advice=advice)


def _read_list(path: Path, setting: str) -> list[str]:
    from scipy.io import loadmat

    try:
        return [str(entry[0][0]) for entry in loadmat(path)["file_list"]]
    except (OSError, KeyError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        raise DataError(
            f"cannot read the list {path}: {error}; extract lists.tar again, or set "
            f"{setting}=/another/folder"
        ) from error


def _is_dataset(folder: Path) -> bool:
    return any(len(class_folders(folder / name)) > 0 for name in ("Images", "train"))


def _is_any(folder: Path) -> bool:
    """Accept plain class folders as well, unless one of them is a dataset itself."""
    inner = class_folders(folder)
    return _is_dataset(folder) or (len(inner) > 1 and not any(map(_is_dataset, inner)))
