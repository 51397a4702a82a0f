"""Stanford Dogs: 120 breeds, and a second domain of the same breeds, real or synthetic.

A. Khosla, N. Jayadevaprakash, B. Yao and L. Fei-Fei, "Novel Dataset for Fine-Grained Image
Categorization", First Workshop on Fine-Grained Visual Categorization, CVPR 2011. The pictures are
from ImageNet, and all of them from its training set: ImageNet backbones have seen them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tl_lightning.data.datamodules.image_files import FileData
from tl_lightning.data.io.download import download, extract, find_or_fetch
from tl_lightning.data.io.folders import Complain, class_folders, find_root, refuse, scan_classes
from tl_lightning.data.layout import Layout, read_layout, split_of
from tl_lightning.errors import DataError

__all__ = ["Dogs", "fetch", "read_dogs"]

URL = "http://vision.stanford.edu/aditya86/ImageNetDogs"
# Lengths and SHA-256 as TensorFlow Datasets records them for its `stanford_dogs`.
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


class Dogs(FileData):
    """Stanford Dogs to another domain of the same breeds.

    Args:
        download: Whether to fetch the official archives (757 MB) if ``root`` does not hold it.
        kwargs: As in :class:`FileData`.
    """

    overlap = "Stanford Dogs is a part of ImageNet's training set"

    def __init__(self, *, download: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.download = download

    def read(self, role: str, node: Mapping[str, Any]) -> tuple[str, Layout]:
        """Return the dogs of the source, or of the target's own folder."""
        root, setting = self.base(role, node)
        if role == "target":
            what = f"{WHAT[:-1]}, or <class>/*.jpg)"
            found = find_root(root, FOLDERS, what, _is_any, setting=setting)
            return found.name, read_dogs(found, setting, self.complain)
        found = find_or_fetch(
            lambda way_out: find_root(
                root, FOLDERS, WHAT, _is_dataset, setting=setting, otherwise=way_out
            ),
            lambda: fetch(Path(root).expanduser() / "stanford_dogs"),
            wanted=self.download,
            megabytes=757,
        )
        return "dogs", read_dogs(found, setting, self.complain)


def fetch(root: Path) -> Path:
    """Download the official archives into ``root`` and unpack them there (if not done yet)."""
    # The lists come first: Images/ without them would be split in another way.
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


def read_dogs(root: Path, setting: str = "data.root", complain: Complain = refuse) -> Layout:
    """Read the classes and splits of a folder of dogs, in any of the layouts accepted.

    Raises:
        DataError: If there are no class folders or a list cannot be read; ``complain`` decides on
            lesser faults: a class without pictures, absent pictures, splits of other classes.
    """
    if not (root / "Images").is_dir():
        return read_layout(root, setting, complain)
    scanned = scan_classes(root / "Images", setting=setting, complain=complain)
    classes = tuple(scanned)
    lists = next((d for d in (root / "lists", root) if (d / "train_list.mat").is_file()), None)
    if lists is None:
        return Layout(classes, split_of(root, classes, scanned), None, None)
    there = {f"{name}/{path.name}": path for name, paths in scanned.items() for path in paths}
    splits = []
    for split in ("train", "test"):
        listed = _read_list(lists / f"{split}_list.mat", setting)
        absent = [name for name in listed if name not in there]
        if absent:
            complain(
                f"{len(absent)} of {len(listed)} pictures of {lists / f'{split}_list.mat'} are not "
                f"in {root / 'Images'}: {', '.join(absent[:5])}; unpack images.tar again, or "
                f"remove the lists for a split by hash, or type {setting}=/another/folder"
            )
        members: dict[str, list[Path]] = {name: [] for name in classes}
        for name in sorted(set(listed) - set(absent)):
            members[name.split("/")[0]].append(there[name])
        splits.append(split_of(root, classes, members))
    return Layout(classes, splits[0], None, splits[1])


def _read_list(path: Path, setting: str) -> list[str]:
    from scipy.io import loadmat

    try:
        return [str(entry[0][0]) for entry in loadmat(path)["file_list"]]
    except (OSError, KeyError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        raise DataError(
            f"cannot read the official list {path}: {error}; unpack lists.tar again, or type "
            f"{setting}=/another/folder"
        ) from error


def _is_dataset(folder: Path) -> bool:
    return any(len(class_folders(folder / name)) > 0 for name in ("Images", "train"))


def _is_any(folder: Path) -> bool:
    """Accept plain class folders too, unless one of them is a dataset of its own."""
    inner = class_folders(folder)
    return _is_dataset(folder) or (len(inner) > 1 and not any(map(_is_dataset, inner)))
