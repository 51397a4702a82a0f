"""Handwritten digits: MNIST, MNIST-M (MNIST over photographs) and USPS.

MNIST: LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document
Recognition", Proc. IEEE 86(11), 1998. MNIST-M: Ganin et al., "Domain-Adversarial Training of
Neural Networks", JMLR 17(59), 2016, generated here from MNIST and the photographs of BSDS500
(Arbelaez, Maire, Fowlkes and Malik, PAMI 33(5), 2011). USPS: Hull, "A Database for Handwritten
Text Recognition Research", PAMI 16(5), 1994.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from tl_lightning.config.hints import within
from tl_lightning.config.schema import cache_root
from tl_lightning.data.datamodules.image import ImageDataModule
from tl_lightning.data.datamodules.mnistm import blend
from tl_lightning.data.datamodules.source_target import only_keys
from tl_lightning.data.domain import Domain, Split
from tl_lightning.data.io.download import download as fetch
from tl_lightning.data.io.download import extract
from tl_lightning.data.io.folders import check_signatures, find_root
from tl_lightning.data.io.idx import DigitSet, checked, read_mnist, read_usps
from tl_lightning.data.io.images import open_image
from tl_lightning.errors import DataError, nearest
from tl_lightning.utils.files import locked

__all__ = ["MNISTDataModule"]

SIZE = 28
CLASSES = tuple("0123456789")
NAMES = ("mnist", "mnistm", "usps")
# Fixed, as the patches are part of the dataset and not of a run.
BLEND_SEED = 0
# Increase if the generated images change, to invalidate cached arrays.
RECIPE = "mnistm 1"

BSDS_URL = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/BSR/BSR_bsds500.tgz"
BSDS_SIZE = 70_763_455
BSDS_SHA256 = "97e49d31764f3912f0c4122707d53062ac9e783ba0f095e447a4d53c1a41af8e"
BSDS_FOLDERS = ("bsds500/train", "BSDS500/data/images/train", "BSR/BSDS500/data/images/train")


class MNISTDataModule(ImageDataModule):
    """MNIST, MNIST-M or USPS as source and target, in memory, 28 x 28 with three channels.

    Digit ``i`` of MNIST and of MNIST-M is the same. Methods cannot use this pairing: each domain
    has its own sample order, and training batches of the target contain no labels. USPS is resized
    from 16 x 16.

    Args:
        root: Folder with the datasets, in one of the formats listed in the configuration file.
        download: Whether to download missing datasets into ``root``.
        val_fraction: Fraction of the official training images, from their end, to use for
            validation (1/12 gives the usual 55,000 and 5,000 images of MNIST).
        source: ``{domain}``: ``mnist``, ``mnistm`` or ``usps``.
        target: ``{domain}``, or None for no target.
        kwargs: See :class:`ImageDataModule`.
    """

    has_domains: ClassVar[bool] = True
    target_keys: ClassVar[frozenset[str]] = frozenset({"domain"})

    def __init__(
        self,
        *,
        root: str,
        download: bool,
        val_fraction: Annotated[float, within(0, 1, open=True)],
        source: Mapping[str, Any],
        target: Mapping[str, Any] | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.root = root
        self.download = download
        self.val_fraction = val_fraction
        self.source_domain = self._chosen("data.source", source)
        self.target_domain = None if target is None else self._chosen("data.target", target)
        if self.source_domain == self.target_domain:
            raise DataError(
                f"data.source.domain and data.target.domain are both {self.source_domain}; set "
                "another data.target.domain, or data.target=null for no target"
            )

    def _chosen(self, key: str, given: Mapping[str, Any]) -> str:
        only_keys(key, given, {"domain"}, every=True)
        domain = str(given["domain"])
        if domain not in NAMES:
            raise DataError(
                f"{key}.domain={domain} is not one of {', '.join(NAMES)}; {nearest(domain, NAMES)}"
            )
        return domain

    def domains(self) -> Mapping[str, Domain]:
        """Return the source and, if there is one, the target."""
        found = {"source": self._domain(self.source_domain)}
        if self.target_domain is not None:
            found["target"] = self._domain(self.target_domain)
        return found

    def _domain(self, name: str) -> Domain:
        note = ""
        if name == "mnistm":
            digits, photos = _read_mnistm(Path(self.root).expanduser(), self.download)
            note = (
                f"MNIST-M was generated from {photos} photographs of BSDS500 as described in its "
                "paper; its random patches differ from those of the published file"
            )
        else:
            digits = (read_mnist if name == "mnist" else read_usps)(self.root, self.download)
        total = len(digits.y_train)
        border = total - round(total * self.val_fraction)
        train = _split("train", digits.x_train, digits.y_train)
        return Domain(
            name,
            CLASSES,
            train.subset(range(border)),
            train.subset(range(border, total)),
            _split("test", digits.x_test, digits.y_test),
            note,
        )


def _split(name: str, pixels: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Split:
    pixels = _resized(pixels)
    if pixels.ndim == 3:
        pixels = np.repeat(pixels[..., None], 3, axis=3)
    names = [f"{name}/{index:05d}" for index in range(len(pixels))]
    return Split(pixels, labels.astype(np.int64), names)


def _resized(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if pixels.shape[1:3] == (SIZE, SIZE):
        return pixels
    scaled = torch.nn.functional.interpolate(
        torch.tensor(pixels)[:, None].float(), (SIZE, SIZE), mode="bilinear"
    )
    resized: NDArray[np.uint8] = scaled[:, 0].round().clamp(0, 255).to(torch.uint8).numpy()
    return resized


# -- MNIST-M ----------------------------------------------------------------------------------
def _read_mnistm(root: Path, download: bool) -> tuple[DigitSet, int]:
    """Return MNIST-M, generated or from the cache, and the number of photographs used."""
    digits = read_mnist(root, download)
    photos = _find_photos(root, download)
    path = cache_root() / f"mnistm-{_key(digits, photos)}.npz"
    with locked(path):  # One process generates it; the others wait.
        if (cached := _cached(path)) is not None:
            return cached, len(photos)
        images = [open_image(photo).permute(1, 2, 0).numpy() for photo in photos]
        built = DigitSet(
            blend(digits.x_train, images, seed=BLEND_SEED),
            digits.y_train,
            blend(digits.x_test, images, seed=BLEND_SEED + 1),
            digits.y_test,
        )
        _save(path, built)
    return built, len(photos)


def _key(digits: DigitSet, photos: list[Path]) -> str:
    digest = hashlib.sha256(f"{RECIPE} {BLEND_SEED}".encode())
    for array in (digits.x_train, digits.y_train, digits.x_test, digits.y_test):
        digest.update(str(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    for photo in photos:
        content = photo.read_bytes()
        digest.update(str(len(content)).encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def _cached(path: Path) -> DigitSet | None:
    try:
        return checked(path, channels=True)
    except (FileNotFoundError, DataError):
        return None  # If it is damaged, for example by a full disk, it is generated again.


def _save(path: Path, digits: DigitSet) -> None:
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".building-") as folder:
            file = Path(folder) / path.name
            np.savez(
                file,
                x_train=digits.x_train,
                y_train=digits.y_train,
                x_test=digits.x_test,
                y_test=digits.y_test,
            )
            os.replace(file, path)
    except OSError as error:
        raise DataError(
            f"cannot save MNIST-M to {path.parent}: {error.strerror}; free some disk space, or set "
            "the environment variable TL_CACHE to another folder"
        ) from error


def _find_photos(root: Path, download: bool) -> list[Path]:
    def holds(folder: Path) -> bool:
        return next(folder.glob("*.jpg"), None) is not None

    # The photographs may be next to the folder of digits as well as in it.
    candidates = [f"{base}{folder}" for base in ("", "../") for folder in BSDS_FOLDERS]
    try:
        folder = find_root(
            root,
            candidates,
            "the photographs of BSDS500 for MNIST-M (bsds500/train/*.jpg)",
            lambda path: path != root.absolute() and holds(path),
            otherwise="data.download=true to fetch 71 MB",
        )
    except DataError:
        if not download:
            raise
        archive = fetch(
            BSDS_URL,
            root / "BSR_bsds500.tgz",
            checksum=f"sha256:{BSDS_SHA256}",
            size=BSDS_SIZE,
            elsewhere="another copy of BSDS500 (BSR_bsds500.tgz)",
        )
        folder = extract(archive, root / "BSR", inside="BSR") / "BSDS500/data/images/train"
    photos = sorted(folder.glob("*.jpg"))
    check_signatures(photos)
    return photos
