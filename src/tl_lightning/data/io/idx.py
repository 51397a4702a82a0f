"""Reading MNIST and USPS from the forms in which they lie about, or fetching them."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tl_lightning.data.io.folders import find_root
from tl_lightning.errors import DataError
from tl_lightning.utils.files import locked

__all__ = ["DigitSet", "checked", "read_mnist", "read_usps"]

MNIST_FOLDERS = ("digits", "MNIST", "mnist", "MNIST/raw", "mnist/raw", "raw")
USPS_FOLDERS = ("digits", "USPS", "usps")
IDX_FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
USPS_FILES = ("usps.bz2", "usps.t.bz2")


@dataclass(frozen=True)
class DigitSet:
    """Pixels ``(N, H, W)`` or ``(N, H, W, 3)`` uint8 and labels ``(N,)`` uint8."""

    x_train: NDArray[np.uint8]
    y_train: NDArray[np.uint8]
    x_test: NDArray[np.uint8]
    y_test: NDArray[np.uint8]


def read_mnist(root: str | Path, download: bool) -> DigitSet:
    """Read MNIST from ``mnist.npz`` or the four idx files, raw or gzipped.

    Raises:
        DataError: If it is not there (and not to be downloaded) or broken.
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
    found = _idx_path(folder)
    parts = {name: _read_idx(path) for name in IDX_FILES if (path := found(name)) is not None}
    return _verified(folder, parts)


def read_usps(root: str | Path, download: bool) -> DigitSet:
    """Read USPS from ``usps.npz`` or the two files that torchvision fetches.

    Raises:
        DataError: If it is not there (and not to be downloaded) or broken.
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
            f"cannot read USPS in {folder}: {error}; remove {' and '.join(USPS_FILES)} and type "
            "data.download=true, or data.root=/another/folder"
        ) from error
    parts = {"x_train": train.data, "y_train": np.asarray(train.targets, dtype=np.uint8)}
    parts |= {"x_test": test.data, "y_test": np.asarray(test.targets, dtype=np.uint8)}
    return _verified(folder, parts)


def checked(path: Path, channels: bool = False) -> DigitSet:
    """Read an ``npz`` file with ``x_train``, ``y_train``, ``x_test`` and ``y_test``.

    Args:
        path: The file.
        channels: Whether the pictures are coloured, ``(N, H, W, 3)``.

    Raises:
        FileNotFoundError: If it is not there.
        DataError: If it is broken.
    """
    try:
        # Opened here: the library leaves the file open when it is damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            parts = {name: arrays[name] for name in arrays.files}
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"cannot read {path}: {error}; remove it and get another copy, or type "
            "data.root=/another/folder"
        ) from error
    return _verified(path, parts, channels)


def _verified(path: Path, parts: dict[str, NDArray[np.uint8]], channels: bool = False) -> DigitSet:
    form = "(N, H, W, 3)" if channels else "(N, H, W)"
    faults = [f"{name} is missing" for name in IDX_FILES if name not in parts]
    for split in ("train", "test") if not faults else ():
        pixels, labels = parts[f"x_{split}"], parts[f"y_{split}"]
        if pixels.dtype != np.uint8 or pixels.ndim != 3 + channels:
            faults.append(f"x_{split} is {pixels.dtype} {pixels.shape}, not uint8 {form}")
        if labels.shape != pixels.shape[:1] or not len(labels):
            faults.append(f"y_{split} has {labels.shape} labels for {pixels.shape} pictures")
        elif labels.min() < 0 or labels.max() > 9:
            faults.append(f"y_{split} has labels {labels.min()} to {labels.max()}, not 0 to 9")
    if faults:
        raise DataError(
            f"{path} does not hold the digits expected: {'; '.join(faults)}; remove it and get "
            "another copy, or type data.root=/another/folder"
        )
    return DigitSet(**{name: np.asarray(parts[name], dtype=np.uint8) for name in IDX_FILES})


def _find(
    root: str | Path,
    candidates: tuple[str, ...],
    what: str,
    accepts: Callable[[Path], bool],
    fetch: Callable[[Path], None] | None,
) -> Path:
    def found() -> Path:
        otherwise = "" if fetch else "data.download=true"
        return find_root(root, candidates, what, accepts, otherwise=otherwise)

    try:
        return found()
    except DataError:
        if fetch is None:
            raise
    base = Path(root).expanduser()
    with locked(base / what.split()[0]):
        try:
            return found()  # Another process may have fetched it while this one waited.
        except DataError:
            pass
        try:
            fetch(base)
        except Exception as error:  # The library raises bare errors of several kinds here.
            raise DataError(
                f"cannot download {what}: {error}; get it elsewhere, put it in {base} and type "
                f"data.root={root}"
            ) from error
    return found()


def _idx_path(folder: Path) -> Callable[[str], Path | None]:
    """Return a function from an array's name to its file in ``folder``, if it is there."""

    def find(name: str) -> Path | None:
        plain = IDX_FILES[name]
        # Some archivers turn the last dash into a dot.
        spellings = (plain, plain.replace("-idx", ".idx"))
        paths = (folder / f"{spelling}{end}" for spelling in spellings for end in ("", ".gz"))
        return next((path for path in paths if path.is_file()), None)

    return find


def _read_idx(path: Path) -> NDArray[np.uint8]:
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        # Two zeros, 8 for bytes, the number of dimensions, then each as a big-endian integer.
        if content[:3] != b"\x00\x00\x08":
            raise ValueError(f"begins with {content[:4]!r}")
        shape = np.frombuffer(content, ">u4", count=content[3], offset=4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise DataError(
            f"cannot read {path}: {error}; remove it and get another copy, or type "
            "data.root=/another/folder"
        ) from error
