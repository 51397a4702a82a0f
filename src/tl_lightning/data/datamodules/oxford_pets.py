"""Oxford-IIIT Pet: 37 breeds of cats and dogs.

O. M. Parkhi, A. Vedaldi, A. Zisserman and C. V. Jawahar, "Cats and Dogs", CVPR 2012.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tl_lightning.data.datamodules.image_files import ImageFilesDataModule
from tl_lightning.data.io.download import download as get
from tl_lightning.data.io.download import extract, find_or_fetch
from tl_lightning.data.io.folders import (
    OnProblem,
    class_folders,
    find_root,
    image_files,
    raise_problem,
)
from tl_lightning.data.layout import Layout, listed_layout, read_layout, split_of
from tl_lightning.errors import DataError

__all__ = ["OxfordPetsDataModule", "fetch", "read_pets"]

URL = "https://www.robots.ox.ac.uk/~vgg/data/pets/data"
# MD5 digests as in torchvision.
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


class OxfordPetsDataModule(ImageFilesDataModule):
    """Oxford-IIIT Pet alone, or with a folder of the same breeds or a synthetic shift as target.

    Args:
        download: Whether to download the official archives (811 MB) if they are not found.
        kwargs: See :class:`ImageFilesDataModule`; a ``target`` without values means no target.
    """

    target_optional = True

    def __init__(self, *, download: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.download = download

    def read(self, domain: str, node: Mapping[str, Any]) -> tuple[str, Layout]:
        """Return the images of the source, or of the target folder."""
        root, setting = self.pair.base(domain)
        if domain == "target":
            what = f"{WHAT[:-1]}, or <class>/*.jpg)"
            found = find_root(root, FOLDERS, what, _is_any, setting=setting)
            return found.name, read_pets(found, setting, self.pair.on_problem)
        found = find_or_fetch(
            lambda hint: find_root(
                root, FOLDERS, WHAT, _is_dataset, setting=setting, otherwise=hint
            ),
            lambda: fetch(Path(root).expanduser() / FOLDER),
            wanted=self.download,
            megabytes=811,
        )
        return "pets", read_pets(found, setting, self.pair.on_problem)

    def has_own_layout(self, folder: Path) -> bool:
        """Return whether the breeds are in the names of the files."""
        return _is_official(folder)


def fetch(root: Path) -> Path:
    """Download the official archives and extract them in ``root``, unless already done."""
    # Lists first: images/ without them would be split by a hash of the names.
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


def read_pets(
    root: Path, setting: str = "data.root", on_problem: OnProblem = raise_problem
) -> Layout:
    """Read the breeds and splits of a folder in any supported layout.

    Raises:
        DataError: If no images are found or a list cannot be read; other problems (such as
            missing images or one missing list) are passed to ``on_problem``.
    """
    if not _is_official(root):
        return read_layout(root, setting, on_problem)
    images = {path.stem: path for path in image_files(root / "images")}
    misnamed = [path.name for name, path in images.items() if not NAME.fullmatch(name)]
    if misnamed:
        on_problem(
            f"{len(misnamed)} of {len(images)} images in {root / 'images'} are not named "
            f"<Breed>_<number>: {', '.join(misnamed[:5])}; rename or remove them, or set "
            f"{setting}=/another/folder"
        )
    images = {name: path for name, path in images.items() if NAME.fullmatch(name)}
    classes = tuple(sorted({_breed(name) for name in images}))
    lists = {split: root / "annotations" / f"{split}.txt" for split in ("trainval", "test")}
    missing = [path for path in lists.values() if not path.is_file()]
    if len(missing) == 1:
        on_problem(
            f"{missing[0]} is missing, but the other list exists; extract annotations.tar.gz "
            "again, or remove annotations/ to split by a hash of the names"
        )
    if missing:
        return Layout(classes, _split(root, classes, sorted(images.values())))
    advice = (
        "extract images.tar.gz again, remove annotations/ to split by a hash of the names, or set "
        f"{setting}=/another/folder"
    )
    available = {name: (_breed(name), path) for name, path in images.items()}
    listed = {path: _read_list(path, setting) for path in lists.values()}
    return listed_layout(root, available, listed, on_problem, where=root / "images", advice=advice)


def _read_list(path: Path, setting: str) -> list[str]:
    """Return the names in a list with lines ``<Breed>_<number> class species breed``."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read the list {path}: {error}; extract annotations.tar.gz again, or "
            f"set {setting}=/another/folder"
        ) from error
    names = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, *numbers = line.split()
        if not NAME.fullmatch(name) or len(numbers) != 3 or not all(n.isdigit() for n in numbers):
            raise DataError(
                f"line {number} of the list {path} is {line.strip()!r}, not <Breed>_<number> "
                "followed by three numbers; extract annotations.tar.gz again"
            )
        names.append(name)
    return names


def _split(root: Path, classes: Sequence[str], paths: Sequence[Path]) -> Any:
    members: dict[str, list[Path]] = {name: [] for name in classes}
    for path in paths:
        members[_breed(path.stem)].append(path)
    return split_of(root, classes, members)


def _breed(name: str) -> str:
    return name.rpartition("_")[0]


def _is_official(folder: Path) -> bool:
    images = folder / "images"
    return images.is_dir() and any(NAME.fullmatch(path.stem) for path in image_files(images))


def _is_dataset(folder: Path) -> bool:
    return _is_official(folder) or bool(class_folders(folder / "train"))


def _is_any(folder: Path) -> bool:
    """Accept plain class folders as well, unless one of them is a dataset itself."""
    inner = class_folders(folder)
    return _is_dataset(folder) or (len(inner) > 1 and not any(map(_is_dataset, inner)))
