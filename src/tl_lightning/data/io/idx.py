"""Readers for MNIST, USPS and SVHN (npz, IDX, bz2, mat), with optional download."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tl_lightning.data.io.folders import find_root
from tl_lightning.data.io.images import UNREADABLE
from tl_lightning.errors import DataError
from tl_lightning.utils.files import locked

__all__ = ["DigitSet", "checked", "read_mnist", "read_svhn", "read_usps", "verified"]

MNIST_FOLDERS = ("digits", "MNIST", "mnist", "MNIST/raw", "mnist/raw", "raw")
USPS_FOLDERS = ("digits", "USPS", "usps")
SVHN_FOLDERS = ("digits", "SVHN", "svhn")
IDX_FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
USPS_FILES = ("usps.bz2", "usps.t.bz2")
SVHN_FILES = {"train": "train_32x32.mat", "test": "test_32x32.mat"}


@dataclass(frozen=True)
class DigitSet:
    """Images ``(N, H, W)`` or ``(N, H, W, 3)`` uint8 and labels ``(N,)`` uint8 of both splits."""

    x_train: NDArray[np.uint8]
    y_train: NDArray[np.uint8]
    x_test: NDArray[np.uint8]
    y_test: NDArray[np.uint8]


def read_mnist(root: str | Path, download: bool) -> DigitSet:
    """Read MNIST from ``mnist.npz`` or the four IDX files, raw or gzipped.

    Raises:
        DataError: If it is missing (and ``download`` is false) or corrupt.
    """

    def fetch(folder: Path) -> None:
        from torchvision.datasets import MNIST

        MNIST(str(folder), download=True)

    folder = _find(
        root,
        MNIST_FOLDERS,
        "MNIST (mnist.npz or the four idx files, raw or .gz)",
        lambda path: (path / "mnist.npz").is_file() or all(map(_idx_path(path), IDX_FILES)),
        fetch if download else None,
    )
    if (folder / "mnist.npz").is_file():
        return checked(folder / "mnist.npz")
    find = _idx_path(folder)
    arrays = {name: _read_idx(path) for name in IDX_FILES if (path := find(name)) is not None}
    return verified(folder, arrays)


def read_usps(root: str | Path, download: bool) -> DigitSet:
    """Read USPS from ``usps.npz`` or the two bz2 files that torchvision downloads.

    Raises:
        DataError: If it is missing (and ``download`` is false) or corrupt.
    """
    from torchvision.datasets import USPS

    def fetch(folder: Path) -> None:
        for train in (True, False):
            USPS(str(folder), train=train, download=True)

    folder = _find(
        root,
        USPS_FOLDERS,
        "USPS (usps.npz, or usps.bz2 and usps.t.bz2)",
        lambda path: (
            (path / "usps.npz").is_file() or all((path / name).is_file() for name in USPS_FILES)
        ),
        fetch if download else None,
    )
    if (folder / "usps.npz").is_file():
        return checked(folder / "usps.npz")
    try:
        train, test = USPS(str(folder), train=True), USPS(str(folder), train=False)
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise DataError(
            f"cannot read USPS in {folder}: {error}; remove {' and '.join(USPS_FILES)} and set "
            "data.download=true, or data.root=/another/folder"
        ) from error
    arrays = {"x_train": train.data, "y_train": np.asarray(train.targets, dtype=np.uint8)}
    arrays |= {"x_test": test.data, "y_test": np.asarray(test.targets, dtype=np.uint8)}
    return verified(folder, arrays)


def read_svhn(root: str | Path, download: bool) -> DigitSet:
    """Read SVHN (format 2, cropped digits) from the files that torchvision downloads.

    Returns:
        Images ``(N, 32, 32, 3)`` and labels; 0 is labelled 10 in the files.

    Raises:
        DataError: If it is missing (and ``download`` is false) or corrupt.
    """

    def fetch(folder: Path) -> None:
        from torchvision.datasets import SVHN

        for split in SVHN_FILES:
            SVHN(str(folder), split=split, download=True)

    folder = _find(
        root,
        SVHN_FOLDERS,
        "SVHN (train_32x32.mat and test_32x32.mat)",
        lambda path: all((path / name).is_file() for name in SVHN_FILES.values()),
        fetch if download else None,
    )
    arrays: dict[str, NDArray[np.uint8]] = {}
    for split, name in SVHN_FILES.items():
        arrays[f"x_{split}"], arrays[f"y_{split}"] = _read_mat(folder / name)
    return verified(folder, arrays, channels=True)


def checked(path: Path, channels: bool = False) -> DigitSet:
    """Read and validate an ``npz`` file with ``x_train``, ``y_train``, ``x_test`` and ``y_test``.

    Args:
        path: The file.
        channels: Whether the images are RGB, ``(N, H, W, 3)``.

    Raises:
        FileNotFoundError: If the file does not exist.
        DataError: If the file is corrupt.
    """
    try:
        # np.load leaks the file handle on a corrupt file, so open it here.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"cannot read {path}: {error}; remove it and get another copy, or set "
            "data.root=/another/folder"
        ) from error
    return verified(path, arrays, channels)


def verified(path: Path, arrays: dict[str, NDArray[np.uint8]], channels: bool = False) -> DigitSet:
    """Return the four arrays as a set of digits.

    Args:
        path: Where they are from, for the error message.
        arrays: ``x_train``, ``y_train``, ``x_test`` and ``y_test``.
        channels: Whether the images are RGB, ``(N, H, W, 3)``.

    Raises:
        DataError: If one is missing, or has another type, shape or other labels.
    """
    shape = "(N, H, W, 3)" if channels else "(N, H, W)"
    problems = [f"{name} is missing" for name in IDX_FILES if name not in arrays]
    for split in ("train", "test") if not problems else ():
        pixels, labels = arrays[f"x_{split}"], arrays[f"y_{split}"]
        colours = pixels.ndim == 4 and pixels.shape[3] == 3
        if pixels.dtype != np.uint8 or not (colours if channels else pixels.ndim == 3):
            problems.append(f"x_{split} is {pixels.dtype} {pixels.shape}, not uint8 {shape}")
        if labels.shape != pixels.shape[:1] or not len(labels):
            problems.append(f"y_{split} has shape {labels.shape} for x_{split} of {pixels.shape}")
        elif labels.min() < 0 or labels.max() > 9:
            problems.append(f"y_{split} has labels {labels.min()} to {labels.max()}, not 0 to 9")
    if problems:
        raise DataError(
            f"{path} does not contain the expected digits: {'; '.join(problems)}; remove it and "
            "get another copy, or set data.root=/another/folder"
        )
    return DigitSet(**{name: np.asarray(arrays[name], dtype=np.uint8) for name in IDX_FILES})


def _find(
    root: str | Path,
    candidates: tuple[str, ...],
    what: str,
    accepts: Callable[[Path], bool],
    fetch: Callable[[Path], None] | None,
) -> Path:
    def find() -> Path:
        otherwise = "" if fetch else "data.download=true"
        return find_root(root, candidates, what, accepts, otherwise=otherwise)

    try:
        return find()
    except DataError:
        if fetch is None:
            raise
    base = Path(root).expanduser()
    with locked(base / what.split()[0]):
        try:
            return find()  # Another process may have downloaded it while this one waited.
        except DataError:
            pass
        try:
            fetch(base)
        except Exception as error:  # torchvision raises several kinds of errors here.
            raise DataError(
                f"cannot download {what}: {error}; download it manually, put it in {base} and set "
                f"data.root={root}"
            ) from error
    return find()


def _idx_path(folder: Path) -> Callable[[str], Path | None]:
    """Return a function that maps an array name to its file in ``folder``, or None if missing."""

    def find(name: str) -> Path | None:
        plain = IDX_FILES[name]
        # Some archive tools turn the dash before "idx" into a dot.
        spellings = (plain, plain.replace("-idx", ".idx"))
        paths = (folder / f"{spelling}{suffix}" for spelling in spellings for suffix in ("", ".gz"))
        return next((path for path in paths if path.is_file()), None)

    return find


def _read_idx(path: Path) -> NDArray[np.uint8]:
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        # Header: two zeros, 8 (uint8), the number of dimensions, then each as big-endian uint32.
        if content[:3] != b"\x00\x00\x08":
            raise ValueError(f"begins with {content[:4]!r}")
        shape = np.frombuffer(content, ">u4", count=content[3], offset=4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise DataError(
            f"cannot read {path}: {error}; remove it and get another copy, or set "
            "data.root=/another/folder"
        ) from error


def _read_mat(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        stored = loadmat(path)
    except (*UNREADABLE, MatReadError) as error:
        raise DataError(
            f"cannot read {path}: {error}; remove it and get another copy, or set "
            "data.root=/another/folder"
        ) from error
    shapes = {name: np.asarray(stored.get(name)).shape for name in ("X", "y")}
    pixels, labels = shapes["X"], shapes["y"]
    if len(pixels) != 4 or np.prod(labels) != pixels[3]:
        raise DataError(
            f"{path} does not contain the expected digits: X has shape {pixels} and y {labels}, "
            "not (32, 32, 3, N) and (N, 1); remove it and get another copy, or set "
            "data.root=/another/folder"
        )
    flat = stored["y"].reshape(-1)
    return np.ascontiguousarray(stored["X"].transpose(3, 0, 1, 2)), np.where(flat == 10, 0, flat)
