"""Handwritten digits of three hands: MNIST, MNIST-M (MNIST over photographs) and USPS.

MNIST: LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document
Recognition", Proc. IEEE 86(11), 1998. MNIST-M: Ganin et al., "Domain-Adversarial Training of
Neural Networks", JMLR 17(59), 2016, built here by its recipe from the photographs of BSDS500
(Arbelaez, Maire, Fowlkes and Malik, PAMI 33(5), 2011). USPS: Hull, "A Database for Handwritten
Text Recognition Research", PAMI 16(5), 1994.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from tl_lightning.data.cache.images import cache_root
from tl_lightning.data.datamodules.image import PictureData
from tl_lightning.data.datamodules.mnistm import blend
from tl_lightning.data.domain import Domain, Split
from tl_lightning.data.io.download import download as fetch
from tl_lightning.data.io.download import extract
from tl_lightning.data.io.folders import check_signatures, find_root
from tl_lightning.data.io.idx import DigitSet, checked, read_mnist, read_usps
from tl_lightning.data.io.images import open_picture
from tl_lightning.errors import DataError, nearest
from tl_lightning.utils.files import locked

__all__ = ["MnistToMnistM", "MnistUsps"]

SIZE = 28
CLASSES = tuple("0123456789")
# Part of the data set, not of a run: the same pictures in every run and on every machine.
BLEND_SEED = 0
# Raise when the pictures that come out change: old cached arrays are then left aside.
RECIPE = "mnistm 1"

BSDS_URL = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/BSR/BSR_bsds500.tgz"
BSDS_SIZE = 70_763_455
BSDS_SHA256 = "97e49d31764f3912f0c4122707d53062ac9e783ba0f095e447a4d53c1a41af8e"
BSDS_FOLDERS = ("bsds500/train", "BSDS500/data/images/train", "BSR/BSDS500/data/images/train")


class _DigitDomains(PictureData):
    """Two of the three sets as source and target, in memory, 28 x 28 and three channels.

    Args:
        root: The folder that holds the sets, each in the forms that the config's header lists.
        download: Whether to fetch into ``root`` what it does not hold.
        val_fraction: Share of the official training pictures, from their end, for validation
            (1/12 gives MNIST's usual 55,000 and 5,000).
        source: ``{domain}``: which set.
        target: ``{domain}``, or None for no target.
        kwargs: As in :class:`PictureData`.
    """

    KNOWN: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        *,
        root: str,
        download: bool,
        val_fraction: float,
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
                f"data.source.domain and data.target.domain are both {self.source_domain}: there "
                "is nothing to adapt to; type another data.target.domain or data.target=null"
            )
        if not 0.0 < val_fraction < 1.0:
            raise DataError(
                f"the share for validation must lie between 0 and 1, got {val_fraction}; "
                "type for instance data.val_fraction=0.0833333"
            )

    def _chosen(self, key: str, given: Mapping[str, Any]) -> str:
        domain = str(given.get("domain"))
        if domain not in self.KNOWN or set(given) != {"domain"}:
            raise DataError(
                f"{key} must be {{domain: <one of {', '.join(self.KNOWN)}>}}, got {dict(given)}; "
                f"{nearest(domain, self.KNOWN)}"
            )
        return domain

    def domains(self) -> Mapping[str, Domain]:
        """Return the source and, unless there is none, the target."""
        found = {"source": self._domain(self.source_domain)}
        if self.target_domain is not None:
            found["target"] = self._domain(self.target_domain)
        return found

    def _domain(self, name: str) -> Domain:
        note = ""
        if name == "mnistm":
            digits, photos = _read_mnistm(Path(self.root).expanduser(), self.download)
            note = (
                f"MNIST-M was built here by its paper's recipe from {photos} photographs of "
                "BSDS500; its random patches are not those of the authors' own file"
            )
        else:
            digits = (read_mnist if name == "mnist" else read_usps)(self.root, self.download)
        held = round(len(digits.y_train) * self.val_fraction)
        border = len(digits.y_train) - held
        train = _split("train", digits.x_train, digits.y_train)
        return Domain(
            name,
            CLASSES,
            train.subset(range(border)),
            train.subset(range(border, border + held)),
            _split("test", digits.x_test, digits.y_test),
            note,
        )


class MnistToMnistM(_DigitDomains):
    """MNIST to MNIST-M: the same digits in gray and over patches of photographs.

    Digit ``i`` of the one is digit ``i`` of the other. That pairing reaches no method: each domain
    is walked in an order of its own, and the target's labels are gone in training.

    Args:
        kwargs: ``root``, ``download``, ``val_fraction``, ``source`` and ``target``, whose
            ``domain`` is ``mnist`` or ``mnistm``, and those of :class:`PictureData`.
    """

    KNOWN = ("mnist", "mnistm")


class MnistUsps(_DigitDomains):
    """MNIST to USPS or the other way round; USPS is enlarged from 16 x 16 to 28 x 28.

    Args:
        kwargs: ``root``, ``download``, ``val_fraction``, ``source`` and ``target``, whose
            ``domain`` is ``mnist`` or ``usps``, and those of :class:`PictureData`.
    """

    KNOWN = ("mnist", "usps")


def _split(name: str, pixels: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Split:
    pixels = _enlarged(pixels)
    if pixels.ndim == 3:
        pixels = np.repeat(pixels[..., None], 3, axis=3)
    names = [f"{name}/{index:05d}" for index in range(len(pixels))]
    return Split(pixels, labels.astype(np.int64), names)


def _enlarged(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if pixels.shape[1:3] == (SIZE, SIZE):
        return pixels
    moved = torch.nn.functional.interpolate(
        torch.tensor(pixels)[:, None].float(), (SIZE, SIZE), mode="bilinear"
    )
    enlarged: NDArray[np.uint8] = moved[:, 0].round().clamp(0, 255).to(torch.uint8).numpy()
    return enlarged


# -- MNIST-M ----------------------------------------------------------------------------------
def _read_mnistm(root: Path, download: bool) -> tuple[DigitSet, int]:
    """Return MNIST-M, built once, and the number of photographs it is made of."""
    digits = read_mnist(root, download)
    photos = _find_photos(root, download)
    path = cache_root() / f"mnistm-{_key(digits, photos)}.npz"
    with locked(path):  # One process builds; the others wait for it.
        if (kept := _kept(path)) is not None:
            return kept, len(photos)
        pictures = [open_picture(photo).permute(1, 2, 0).numpy() for photo in photos]
        built = DigitSet(
            blend(digits.x_train, pictures, seed=BLEND_SEED),
            digits.y_train,
            blend(digits.x_test, pictures, seed=BLEND_SEED + 1),
            digits.y_test,
        )
        _keep(path, built)
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


def _kept(path: Path) -> DigitSet | None:
    try:
        return checked(path, channels=True)
    except FileNotFoundError:
        return None
    except DataError:
        return None  # Damaged, for instance by a full disk: it is built again and replaced.


def _keep(path: Path, digits: DigitSet) -> None:
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".building-") as folder:
            whole = Path(folder) / path.name
            np.savez(
                whole,
                x_train=digits.x_train,
                y_train=digits.y_train,
                x_test=digits.x_test,
                y_test=digits.y_test,
            )
            os.replace(whole, path)
    except OSError as error:
        raise DataError(
            f"cannot keep the built MNIST-M in {path.parent}: {error.strerror}; make room there, "
            "or set the environment variable TL_CACHE to another folder"
        ) from error


def _find_photos(root: Path, download: bool) -> list[Path]:
    def holds(folder: Path) -> bool:
        return next(folder.glob("*.jpg"), None) is not None

    # Beside the folder of digits as well as in it.
    places = [f"{base}{folder}" for base in ("", "../") for folder in BSDS_FOLDERS]
    try:
        folder = find_root(
            root,
            places,
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
