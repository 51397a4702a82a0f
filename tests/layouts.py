"""Tiny copies of the real data sets, made by code in their real layouts."""

from __future__ import annotations

import bz2
import gzip
import os
import shutil
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

BREEDS = ("n02085620-Chihuahua", "n02085782-Japanese_spaniel", "n02085936-Maltese_dog")


def real_data(*parts: str) -> Path:
    """Return a folder of the real data, or skip the test saying why."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("TL_REAL_DATA", default)).joinpath(*parts)
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is absent; set TL_REAL_DATA to its parent")
    return folder


def picture(path: Path, seed: int, size: tuple[int, int] = (24, 20)) -> Path:
    """Write one small picture; its suffix says how."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def class_folders(
    folder: Path,
    number: int,
    classes: Sequence[str] = BREEDS,
    start: int = 0,
    seed: int = 0,
    size: tuple[int, int] = (24, 20),
) -> Path:
    """Write ``folder/<class>/<id>_<n>.jpg``."""
    for label, name in enumerate(classes):
        for index in range(start, start + number):
            file = f"{name.split('-')[0]}_{index}.jpg"
            picture(folder / name / file, seed + 1000 * label + index, size)
    return folder


def split_folders(
    root: Path, train: int = 8, test: int = 4, val: int = 0, classes: Sequence[str] = BREEDS
) -> Path:
    """Write ``root/{train,test,val}/<class>/``; a split of 0 pictures is left out."""
    start = 0
    for split, number in (("train", train), ("test", test), ("val", val)):
        if number:
            class_folders(root / split, number, classes, start)
        start += number
    return root


def official_dogs(root: Path, train: int = 8, test: int = 4, lists: str | None = "lists") -> Path:
    """Write ``Images/<nWNID-Breed>/`` and the lists as MATLAB files, as Stanford ships them."""
    from scipy.io import savemat

    class_folders(root / "Images", train + test)
    if lists is None:
        return root
    (root / lists).mkdir(exist_ok=True)
    for split, first, last in (("train", 0, train), ("test", train, train + test)):
        names = [
            f"{breed}/{breed.split('-')[0]}_{index}.jpg"
            for breed in BREEDS
            for index in range(first, last)
        ]
        cells = np.empty((len(names), 1), dtype=object)
        cells[:, 0] = names
        labels = np.repeat(np.arange(1, len(BREEDS) + 1), last - first)[:, None]
        savemat(root / lists / f"{split}_list.mat", {"file_list": cells, "labels": labels})
    return root


def digit_arrays(
    train: int = 60, test: int = 20, side: int = 28, seed: int = 0
) -> dict[str, np.ndarray]:
    """Return arrays like those of MNIST: bright blobs on black, every class present."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for split, number in (("train", train), ("test", test)):
        pixels = np.zeros((number, side, side), dtype=np.uint8)
        middle = slice(side // 4, 3 * side // 4)
        shape = pixels[:, middle, middle].shape
        pixels[:, middle, middle] = rng.integers(100, 256, shape, dtype=np.uint8)
        arrays[f"x_{split}"] = pixels
        arrays[f"y_{split}"] = (np.arange(number) % 10).astype(np.uint8)
    return arrays


def digits_npz(path: Path, **kwargs: int) -> dict[str, np.ndarray]:
    """Write ``mnist.npz`` or ``usps.npz`` and return what it holds."""
    arrays = digit_arrays(**kwargs)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return arrays


def digits_idx(
    folder: Path, *, packed: bool = False, dotted: bool = False, **kwargs: int
) -> dict[str, np.ndarray]:
    """Write the four idx files of MNIST."""
    arrays = digit_arrays(**kwargs)
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "x_train": "train-images-idx3-ubyte",
        "y_train": "train-labels-idx1-ubyte",
        "x_test": "t10k-images-idx3-ubyte",
        "y_test": "t10k-labels-idx1-ubyte",
    }
    for name, file in files.items():
        array = arrays[name]
        head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        file = file.replace("-idx", ".idx") if dotted else file
        content = head + array.tobytes()
        if packed:
            (folder / f"{file}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / file).write_bytes(content)
    return arrays


def usps_bz2(folder: Path) -> dict[str, np.ndarray]:
    """Write USPS as LIBSVM's site ships it: label 1 to 10, pixels in [-1, 1]."""
    arrays = digit_arrays(train=40, test=20, side=16)
    folder.mkdir(parents=True, exist_ok=True)
    for split, file in (("train", "usps.bz2"), ("test", "usps.t.bz2")):
        lines = []
        for pixels, label in zip(arrays[f"x_{split}"], arrays[f"y_{split}"], strict=True):
            values = pixels.reshape(-1) / 127.5 - 1
            cells = " ".join(f"{i + 1}:{value:.6f}" for i, value in enumerate(values))
            lines.append(f"{label + 1} {cells}")
        (folder / file).write_bytes(bz2.compress("\n".join(lines).encode()))
    return arrays


def photos(folder: Path, number: int = 3) -> Path:
    """Write photographs like those of BSDS500, some upright, some not."""
    for index in range(number):
        picture(folder / f"{index}.jpg", index, (48, 36) if index % 2 else (36, 48))
    return folder


def two_domains(root: Path, size: tuple[int, int] = (48, 40)) -> Path:
    """Write ``root/{source,target}/{train,test}/<class>/`` without a fault."""
    for seed, role in ((0, "source"), (50_000, "target")):
        class_folders(root / role / "train", 6, seed=seed, size=size)
        class_folders(root / role / "test", 3, start=6, seed=seed, size=size)
    return root


def png_chunk(name: bytes, content: bytes) -> bytes:
    """Return one chunk of a PNG file."""
    body = name + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def planted_faults(root: Path) -> dict[str, Path]:
    """Write two domains with one fault of nearly every kind; return the file at fault by kind.

    A kind in two ways has its second under ``<kind>/<how>``.
    """
    two_domains(root)
    train = root / "source" / "train"
    own, other = train / BREEDS[0], train / BREEDS[1]
    target = root / "target" / "test" / BREEDS[0]
    first = own / "n02085620_0.jpg"
    rng = np.random.default_rng(99_999)
    planted: dict[str, Path] = {}

    def new(kind: str, path: Path) -> Path:
        planted[kind] = path
        return path

    def noise(mode: str) -> Image.Image:
        return Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).convert(mode)

    new("empty", own / "empty.jpg").touch()
    new("not_a_picture", own / "text.jpg").write_text("<html>404 not found</html>")
    new("truncated", own / "half.jpg").write_bytes(first.read_bytes()[: first.stat().st_size // 2])
    head = struct.pack(">IIBBBBB", 20_000, 18_000, 1, 0, 0, 0, 0)
    new("enormous", own / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + png_chunk(b"IDAT", b"")
    )
    new("bad_name", Path(os.fsdecode(os.fsencode(own) + b"/caf\xe9.png")))
    noise("RGB").save(planted["bad_name"])
    new("no_file", own / "folder.jpg").mkdir()
    new("no_file/link", own / "dangling.jpg").symlink_to(root / "gone.jpg")
    new("ignored_format", own / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    noise("P").save(new("ignored_format/gif", own / "old.gif"))
    noise("RGB").save(new("outside", train / "beside.png"))
    (own / "more").mkdir()
    noise("RGB").save(new("outside/deeper", own / "more" / "deep.png"))
    noise("CMYK").save(new("cmyk", own / "print.jpg"))
    deep = rng.integers(0, 65536, (40, 48), dtype=np.uint16)
    Image.fromarray(deep).save(new("sixteen_bit", own / "microscope.png"))
    frames = [noise("RGB"), noise("RGB")]
    frames[0].save(new("animated", own / "pages.tif"), save_all=True, append_images=frames[1:])
    noise("RGB").resize((16, 16)).save(new("tiny", own / "icon.png"))
    exif = Image.Exif()
    exif[0x0112] = 6
    noise("RGB").save(new("exif_rotated", own / "phone.jpg"), exif=exif)
    noise("RGB").save(new("suffix_lies", own / "really_png.jpg"), format="PNG")
    clear = noise("RGBA")
    clear.putalpha(Image.fromarray(rng.integers(0, 256, (40, 48), dtype=np.uint8)))
    clear.save(new("transparent", own / "clear.png"))
    noise("L").save(new("grayscale", own / "gray.png"))
    shutil.copy(first, new("two_classes", other / "other_label.jpg"))
    shutil.copy(
        own / "n02085620_1.jpg",
        new("across_splits", root / "source" / "test" / BREEDS[0] / "again.jpg"),
    )
    with Image.open(other / "n02085782_2.jpg") as seen:
        seen.save(new("across_domains", target.parent / BREEDS[1] / "seen.png"))
    shutil.copy(target / "n02085620_6.jpg", new("within", target / "twice.jpg"))
    for split in ("train", "test"):  # the target calls a class by another name
        (root / "target" / split / BREEDS[2]).rename(root / "target" / split / "n02085936-Maltese")
    return planted
