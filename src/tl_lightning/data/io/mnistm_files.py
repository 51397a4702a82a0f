"""Readers for the published MNIST-M: one npz file, or folders of PNG images with label lists."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tl_lightning.data.cache.contents import contents
from tl_lightning.data.io.idx import DigitSet, checked, verified
from tl_lightning.data.io.images import open_image
from tl_lightning.errors import DataError
from tl_lightning.utils.text import shorten

__all__ = ["MNISTM_FOLDERS", "find_mnistm", "fingerprint", "read_mnistm"]

#: Searched in this order, after the root itself.
MNISTM_FOLDERS = ("digits", "mnist_m", "MNIST-M", "mnistm")
NPZ = "mnistm.npz"
PICKLES = ("keras_mnistm.pkl", "keras_mnistm.pkl.gz")
SPLITS = {"train": "mnist_m_train", "test": "mnist_m_test"}
THREADS = 16
OTHERWISE = (
    "extract mnist_m.tar.gz again, or remove it to have MNIST-M built from MNIST and BSDS500"
)


def find_mnistm(root: str | Path) -> Path | None:
    """Return where the published MNIST-M is, or None if it is not below ``root``.

    The root and each of :data:`MNISTM_FOLDERS` in it are searched for ``mnistm.npz``, then for
    ``mnist_m_train`` and ``mnist_m_test``.

    Returns:
        The npz file, or the folder that contains the two folders of images.

    Raises:
        DataError: If there is only the pickle of another project, which is not read.
    """
    base = Path(root).expanduser().absolute()
    folders = [base, *(base / name for name in MNISTM_FOLDERS)]
    for folder in folders:
        if (folder / NPZ).is_file():
            return folder / NPZ
        if any((folder / name).is_dir() for name in SPLITS.values()):
            return folder
    for path in (folder / name for folder in folders for name in PICKLES):
        if path.is_file():
            raise DataError(
                f"{path} is a pickle, which could run any code and is not read; convert it to "
                f"{path.with_name(NPZ)} as described in conf/data/mnist_mnistm.yaml, or remove it "
                "to have MNIST-M built from MNIST and BSDS500"
            )
    return None


def read_mnistm(path: Path) -> DigitSet:
    """Read the published MNIST-M from a path of :func:`find_mnistm`.

    Returns:
        Images ``(N, H, W, 3)``, 28 x 28 or 32 x 32, and labels.

    Raises:
        DataError: If an array, a list, a label or an image is missing or invalid.
    """
    if path.is_file():
        return checked(path, channels=True)
    arrays: dict[str, NDArray[np.uint8]] = {}
    for split, name in SPLITS.items():
        files, labels = _listed(path / name, path / f"{name}_labels.txt")
        arrays[f"x_{split}"] = _pixels(files)
        arrays[f"y_{split}"] = labels
    return verified(path, arrays, channels=True)


def fingerprint(path: Path) -> str:
    """Return a hash of the names and contents of all files, for the key of a cached copy."""
    files = [
        file
        for name in SPLITS.values()
        for file in sorted([path / f"{name}_labels.txt", *(path / name).glob("*")])
        if file.is_file()
    ]
    digest = hashlib.sha256(json.dumps([str(file.relative_to(path)) for file in files]).encode())
    digest.update(contents(files).tobytes())
    return digest.hexdigest()[:16]


def _listed(folder: Path, listing: Path) -> tuple[list[Path], NDArray[np.uint8]]:
    """Return the files named by a list, in its order, and their labels."""
    for path in (folder, listing):
        if not path.exists():
            raise DataError(
                f"{path} of the published MNIST-M is missing beside the rest of it; {OTHERWISE}"
            )
    try:
        lines = [line.split() for line in listing.read_text().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the list {listing}: {error}; {OTHERWISE}") from error
    for fields in lines:
        if len(fields) != 2 or fields[1] not in "0123456789":
            raise DataError(
                f"{listing} contains the line {' '.join(fields)!r}, not '<file name> <label>' with "
                f"a label of 0 to 9; {OTHERWISE}"
            )
    files = [folder / name for name, _ in lines]
    absent = [file.name for file in files if not file.is_file()]
    if absent or not files:
        raise DataError(
            f"{len(absent)} of {len(files)} images listed in {listing} are not in {folder}: "
            f"{shorten(absent) or 'the list is empty'}; {OTHERWISE}"
        )
    return files, np.array([int(label) for _, label in lines], dtype=np.uint8)


def _pixels(files: list[Path]) -> NDArray[np.uint8]:
    with ThreadPoolExecutor(THREADS) as pool:
        images = [image.permute(1, 2, 0).numpy() for image in pool.map(open_image, files)]
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            raise DataError(
                f"{file} has {image.shape[0]} x {image.shape[1]} pixels, but {files[0].name} has "
                f"{images[0].shape[0]} x {images[0].shape[1]}; {OTHERWISE}"
            )
    return np.stack(images)
