"""Oxford-IIIT Pet: 37 breeds of cats and dogs.

O. M. Parkhi, A. Vedaldi, A. Zisserman and C. V. Jawahar, "Cats and Dogs", CVPR 2012.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tl_lightning.data.datamodules.image_files import FileData
from tl_lightning.data.io.download import download as get
from tl_lightning.data.io.download import extract, find_or_fetch
from tl_lightning.data.io.folders import Complain, class_folders, find_root, picture_files, refuse
from tl_lightning.data.layout import Layout, read_layout, split_of
from tl_lightning.errors import DataError

__all__ = ["Pets", "fetch", "read_pets"]

URL = "https://www.robots.ox.ac.uk/~vgg/data/pets/data"
# MD5 as torchvision records them.
ARCHIVES = {
    "annotations.tar.gz": "95a8c909bbe2e81eed6a22bccdf3f68f",
    "images.tar.gz": "5c4f3ee8e5d25df40f4fd59a7f44e54c",
}
FOLDER = "oxford-iiit-pet"
FOLDERS = ("pets", FOLDER, "oxford_iiit_pet", "OxfordIIITPet")
WHAT = (
    "Oxford-IIIT Pet (images/<Breed>_<number>.jpg with or without annotations/trainval.txt and "
    "test.txt, or train/<class>/*.jpg with or without val/ and test/)"
)
NAME = re.compile(r"(?P<breed>.+)_\d+")


class Pets(FileData):
    """Oxford-IIIT Pet, alone, to another folder of its breeds, or to a synthetic shift.

    Args:
        download: Whether to fetch the official archives (811 MB) if ``root`` does not hold it.
        kwargs: As in :class:`FileData`. A ``target`` without root and shift is no target.
    """

    target_optional = True

    def __init__(self, *, download: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.download = download

    def read(self, role: str, node: Mapping[str, Any]) -> tuple[str, Layout]:
        """Return the pets of the source, or of the target's own folder."""
        root, setting = self.base(role, node)
        if role == "target":
            what = f"{WHAT[:-1]}, or <class>/*.jpg)"
            found = find_root(root, FOLDERS, what, _is_any, setting=setting)
            return found.name, read_pets(found, setting, self.complain)
        found = find_or_fetch(
            lambda way_out: find_root(
                root, FOLDERS, WHAT, _is_dataset, setting=setting, otherwise=way_out
            ),
            lambda: fetch(Path(root).expanduser() / FOLDER),
            wanted=self.download,
            megabytes=811,
        )
        return "pets", read_pets(found, setting, self.complain)


def fetch(root: Path) -> Path:
    """Download the official archives into ``root`` and unpack them there (if not done yet)."""
    # The lists come first: images/ without them would be split in another way.
    for archive, digest in ARCHIVES.items():
        folder = archive.partition(".")[0]
        if not (root / folder).is_dir():
            path = get(
                f"{URL}/{archive}",
                root / archive,
                checksum=f"md5:{digest}",
                size=None,
                elsewhere="another mirror of Oxford-IIIT Pet (its images.tar.gz and "
                "annotations.tar.gz)",
            )
            extract(path, root / folder, inside=folder)
    return root


def read_pets(root: Path, setting: str = "data.root", complain: Complain = refuse) -> Layout:
    """Read the breeds and splits of a folder of pets, in any of the layouts accepted.

    Raises:
        DataError: If there are no pictures or a list cannot be read; ``complain`` decides on
            lesser faults: pictures without a breed, absent pictures, one list of two, a picture in
            both.
    """
    if not _is_official(root):
        return read_layout(root, setting, complain)
    there = {path.stem: path for path in picture_files(root / "images")}
    odd = [path.name for name, path in there.items() if not NAME.fullmatch(name)]
    if odd:
        complain(
            f"{len(odd)} of {len(there)} pictures in {root / 'images'} are not named "
            f"<Breed>_<number>: {', '.join(odd[:5])}; rename or remove them, or type "
            f"{setting}=/another/folder"
        )
    there = {name: path for name, path in there.items() if NAME.fullmatch(name)}
    classes = tuple(sorted({_breed(name) for name in there}))
    lists = {split: root / "annotations" / f"{split}.txt" for split in ("trainval", "test")}
    lacking = [path for path in lists.values() if not path.is_file()]
    if len(lacking) == 1:
        complain(
            f"{lacking[0]} is absent, but the other list is there; unpack annotations.tar.gz "
            "again, or remove annotations/ for a split by hash"
        )
    if lacking:
        return Layout(classes, _of(root, classes, sorted(there.values())))
    splits = []
    seen: set[str] = set()
    for path in lists.values():
        listed = _read_list(path, setting)
        absent = [name for name in listed if name not in there]
        if absent:
            complain(
                f"{len(absent)} of {len(listed)} pictures of {path} are not in {root / 'images'}: "
                f"{', '.join(absent[:5])}; unpack images.tar.gz again, or remove annotations/ for "
                f"a split by hash, or type {setting}=/another/folder"
            )
        both = [name for name in listed if name in seen]
        if both:
            complain(
                f"{len(both)} pictures of {path} are in trainval.txt too: {', '.join(both[:5])}; "
                "unpack annotations.tar.gz again"
            )
        kept = sorted(set(listed) - set(absent) - seen)
        seen |= set(listed)
        splits.append(_of(root, classes, [there[name] for name in kept]))
    return Layout(classes, splits[0], None, splits[1])


def _read_list(path: Path, setting: str) -> list[str]:
    """Return the names in a list of lines ``<Breed>_<number> class species breed``."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read the official list {path}: {error}; unpack annotations.tar.gz again, or "
            f"type {setting}=/another/folder"
        ) from error
    names = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, *numbers = line.split()
        if not NAME.fullmatch(name) or len(numbers) != 3 or not all(n.isdigit() for n in numbers):
            raise DataError(
                f"line {number} of the official list {path} is {line.strip()!r}, not <Breed>_"
                "<number> and three numbers; unpack annotations.tar.gz again"
            )
        names.append(name)
    return names


def _of(root: Path, classes: Sequence[str], paths: Sequence[Path]) -> Any:
    members: dict[str, list[Path]] = {name: [] for name in classes}
    for path in paths:
        members[_breed(path.stem)].append(path)
    return split_of(root, classes, members)


def _breed(name: str) -> str:
    return name.rpartition("_")[0]


def _is_official(folder: Path) -> bool:
    images = folder / "images"
    return images.is_dir() and any(NAME.fullmatch(path.stem) for path in picture_files(images))


def _is_dataset(folder: Path) -> bool:
    return _is_official(folder) or bool(class_folders(folder / "train"))


def _is_any(folder: Path) -> bool:
    """Accept plain class folders too, unless one of them is a data set of its own."""
    inner = class_folders(folder)
    return _is_dataset(folder) or (len(inner) > 1 and not any(map(_is_dataset, inner)))
