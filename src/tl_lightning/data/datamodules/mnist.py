"""Digits: MNIST, MNIST-M (MNIST over photographs), USPS, SVHN (street views), and a small set.

MNIST: LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document
Recognition", Proc. IEEE 86(11), 1998. MNIST-M: Ganin et al., "Domain-Adversarial Training of
Neural Networks", JMLR 17(59), 2016: the published set, or one generated here from MNIST and the
photographs of BSDS500 (Arbelaez, Maire, Fowlkes and Malik, PAMI 33(5), 2011). USPS: Hull, "A
Database for Handwritten Text Recognition Research", PAMI 16(5), 1994. SVHN: Netzer, Wang, Coates,
Bissacco, Wu and Ng, "Reading Digits in Natural Images with Unsupervised Feature Learning", NIPS
workshop, 2011. The small set, ``digits``, is the test set of the UCI's optical digits (Alpaydin and
Kaynak, 1998) in scikit-learn.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from tl_lightning.config.hints import within
from tl_lightning.config.schema import cache_root
from tl_lightning.data.datamodules.image import ImageDataModule
from tl_lightning.data.datamodules.mnistm import binarised, blend
from tl_lightning.data.datamodules.source_target import only_keys
from tl_lightning.data.domain import Domain, Split
from tl_lightning.data.io.download import download as fetch
from tl_lightning.data.io.download import extract
from tl_lightning.data.io.embedded_digits import read_digits
from tl_lightning.data.io.folders import check_signatures, find_root
from tl_lightning.data.io.idx import DigitSet, checked, read_mnist, read_svhn, read_usps
from tl_lightning.data.io.images import open_image
from tl_lightning.data.io.mnistm_files import find_mnistm, fingerprint, read_mnistm
from tl_lightning.data.layout import Layout, pooled
from tl_lightning.errors import DataError, nearest
from tl_lightning.utils.files import locked

__all__ = ["MNISTDataModule"]

SIZE = 28
CLASSES = tuple("0123456789")
NAMES = ("mnist", "mnistm", "usps", "svhn", "digits")
READERS = {"mnist": read_mnist, "usps": read_usps, "svhn": read_svhn, "digits": read_digits}
# Images resized at once, which bounds the memory.
CHUNK = 10_000
# Fixed, as the patches are part of the dataset and not of a run.
BLEND_SEED = 0
# Increase if the generated images change, to invalidate cached arrays.
RECIPE = "mnistm 2"

BSDS_URL = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/BSR/BSR_bsds500.tgz"
BSDS_SIZE = 70_763_455
BSDS_SHA256 = "97e49d31764f3912f0c4122707d53062ac9e783ba0f095e447a4d53c1a41af8e"
BSDS_FOLDERS = ("bsds500/train", "BSDS500/data/images/train", "BSR/BSDS500/data/images/train")


class MNISTDataModule(ImageDataModule):
    """Sets of digits as source and target, in memory, 28 x 28 with three channels.

    Digit ``i`` of MNIST and of a generated MNIST-M is the same. Methods cannot use this pairing:
    each domain has its own sample order, and training batches of the target contain no labels.
    USPS is resized from 16 x 16, SVHN and the published images of MNIST-M from 32 x 32, and
    ``digits`` from 8 x 8.

    Args:
        root: Folder with the datasets, in one of the formats listed in the configuration file.
        download: Whether to download missing datasets into ``root``.
        val_fraction: Fraction of the official training images, from their end, to use for
            validation (1/12 gives the usual 55,000 and 5,000 images of MNIST).
        source: ``{domain}``: ``mnist``, ``mnistm``, ``usps``, ``svhn`` or ``digits``, or a list of
            them, which keep their names.
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
        if shared := [name for name in self.source_domain if name in (self.target_domain or ())]:
            raise DataError(
                f"data.source.domain and data.target.domain are both {shared[0]}; set "
                "another data.target.domain, or data.target=null for no target"
            )

    def _chosen(self, key: str, given: Mapping[str, Any]) -> list[str]:
        only_keys(key, given, {"domain"}, every=True)
        domain = given["domain"]
        names = [str(name) for name in (domain if isinstance(domain, list) else [domain])]
        if wrong := [name for name in names if name not in NAMES]:
            raise DataError(
                f"{key}.domain={wrong[0]} is not one of {', '.join(NAMES)}; "
                f"{nearest(wrong[0], NAMES)}"
            )
        if len(set(names)) < max(1, len(names)):
            raise DataError(
                f"{key}.domain=[{','.join(names)}] must name at least one set, each once; set "
                f"{key}.domain={(names or NAMES)[0]}"
            )
        return names

    def domains(self) -> Mapping[str, Domain]:
        """Return the source and, if there is one, the target."""
        found = {"source": self._domain(self.source_domain)}
        if self.target_domain is not None:
            found["target"] = self._domain(self.target_domain)
        return found

    def _domain(self, names: list[str]) -> Domain:
        """Return one set, or several merged into one domain."""
        layout = pooled({name: self._layout(name) for name in names})
        assert layout.val is not None
        assert layout.test is not None
        return Domain(
            "+".join(names), CLASSES, layout.train, layout.val, layout.test, layout.note,
            domains=layout.domains,
        )  # fmt: skip

    def _layout(self, name: str) -> Layout:
        note = ""
        if name == "mnistm":
            digits, note = _read_mnistm(Path(self.root).expanduser(), self.download)
        else:
            digits = READERS[name](self.root, self.download)
        total = len(digits.y_train)
        border = total - round(total * self.val_fraction)
        train = _split("train", digits.x_train, digits.y_train)
        return Layout(
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
    """Resize ``(N, H, W)`` or ``(N, H, W, 3)`` to 28 x 28, with antialiasing if it shrinks."""
    if pixels.shape[1:3] == (SIZE, SIZE):
        return pixels
    grey = pixels.ndim == 3
    images = torch.tensor(pixels)
    images = images[:, None] if grey else images.permute(0, 3, 1, 2)
    scaled = torch.cat([_scaled(chunk) for chunk in torch.split(images, CHUNK)])
    resized: NDArray[np.uint8] = (scaled[:, 0] if grey else scaled.permute(0, 2, 3, 1)).numpy()
    return resized


def _scaled(images: torch.Tensor) -> torch.Tensor:
    scaled = torch.nn.functional.interpolate(
        images.float(), (SIZE, SIZE), mode="bilinear", antialias=images.shape[-1] > SIZE
    )
    return scaled.round().clamp(0, 255).to(torch.uint8)


# -- MNIST-M ----------------------------------------------------------------------------------
def _read_mnistm(root: Path, download: bool) -> tuple[DigitSet, str]:
    """Return MNIST-M, published or generated, and the note on it for the report."""
    if (path := find_mnistm(root)) is not None:
        note = f"MNIST-M is the published set, read from {path}"
        if path.is_file():
            return read_mnistm(path), note
        # Decoding 68,000 small files takes much longer than reading one.
        return _kept(f"published-{fingerprint(path)}", lambda: read_mnistm(path)), note
    digits = read_mnist(root, download)
    photos = _find_photos(root, download)
    note = (
        f"MNIST-M was generated from {len(photos)} photographs of BSDS500 as described in its "
        "paper; its random patches differ from those of the published file"
    )
    return _kept(_key(digits, photos), lambda: _generated(digits, photos)), note


def _generated(digits: DigitSet, photos: list[Path]) -> DigitSet:
    images = [open_image(photo).permute(1, 2, 0).numpy() for photo in photos]
    return DigitSet(
        blend(binarised(digits.x_train), images, seed=BLEND_SEED),
        digits.y_train,
        blend(binarised(digits.x_test), images, seed=BLEND_SEED + 1),
        digits.y_test,
    )


def _kept(key: str, make: Callable[[], DigitSet]) -> DigitSet:
    """Return the cached set of that key, or make and cache it."""
    path = cache_root() / f"mnistm-{key}.npz"
    with locked(path):  # One process makes it; the others wait.
        if (cached := _cached(path)) is not None:
            return cached
        made = make()
        _save(path, made)
    return made


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
