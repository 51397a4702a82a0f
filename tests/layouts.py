"""Generators of tiny datasets in the layouts of the real ones."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import os
import pickle
import shutil
import struct
import tarfile
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

BREEDS = ("n02085620-Chihuahua", "n02085782-Japanese_spaniel", "n02085936-Maltese_dog")


#: Arguments of a synthetic shift.
SHIFT = {"blur": 0.02, "brightness": 0.5, "saturation": 0.5, "tint": [1.0, 1.0, 1.0]}
SHIFT |= {"noise": 0.0, "seed": 0}


def file_settings(root: Path, **changed: Any) -> dict[str, Any]:
    """Return the arguments of an image data module for a few images."""
    settings = {
        "name": "tiny",
        "batch_size": 2,
        "eval_batch_size": 4,
        "steps_per_epoch": None,
        "sampling": "uniform",
        "target_sampling": "uniform",
        "num_workers": 0,
        "augment": "light",
        "mixup_alpha": 0.0,
        "cutmix_alpha": 0.0,
        "seed": 0,
        "pin_memory": False,
        "root": str(root),
        "val_fraction": 0.25,
        "test_fraction": 0.4,
        "test_split": "auto",
        "classes": None,
        "transductive": False,
        "on_error": "stop",
        "max_value": "auto",
        "source": {"root": None, "domain": None},
        "target": None,
    }
    return {**settings, **changed}


def real_data(*parts: str) -> Path:
    """Return a folder of the real data, or skip the test if it is missing."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("TL_REAL_DATA", default)).joinpath(*parts)
    if not folder.is_dir():
        pytest.skip(f"real data not found: {folder}; set TL_REAL_DATA to its parent")
    return folder


def image(path: Path, seed: int, size: tuple[int, int] = (24, 20)) -> Path:
    """Write a small image in the format given by the suffix."""
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
            image(folder / name / file, seed + 1000 * label + index, size)
    return folder


def split_folders(
    root: Path, train: int = 8, test: int = 4, val: int = 0, classes: Sequence[str] = BREEDS
) -> Path:
    """Write ``root/{train,test,val}/<class>/``; splits of 0 images are omitted."""
    start = 0
    for split, number in (("train", train), ("test", test), ("val", val)):
        if number:
            class_folders(root / split, number, classes, start)
        start += number
    return root


def domain_folders(
    root: Path,
    domains: Sequence[str] = ("art_painting", "photo", "sketch"),
    number: int = 10,
    classes: Sequence[str] = ("dog", "horse", "house"),
    level: str = "",
) -> Path:
    """Write ``root/<domain>/<class>/`` as in PACS, or with ``level="images"`` as in Office-31."""
    for index, domain in enumerate(domains):
        class_folders(root / domain / level, number, classes, 100 * index)
    return root


def domainnet(root: Path, domains: Sequence[str] = ("clipart", "real")) -> Path:
    """Write domains with lists as in DomainNet: 3 of 4 images per class are for training."""
    domain_folders(root, domains, 4, ("aircraft_carrier", "zebra"))
    for domain in domains:
        lines: dict[str, list[str]] = {"train": [], "test": []}
        for label, folder in enumerate(sorted((root / domain).iterdir())):
            for index, path in enumerate(sorted(folder.iterdir())):
                split = "test" if index == 3 else "train"
                lines[split].append(f"{path.relative_to(root).as_posix()} {label}\n")
        for split, listed in lines.items():
            (root / f"{domain}_{split}.txt").write_text("".join(listed))
    return root


def visda(root: Path) -> Path:
    """Write ``train/`` and ``validation/`` with a class named train and lists as in VisDA."""
    domain_folders(root, ("train", "validation"), 10, ("bus", "train", "truck"))
    for domain in ("train", "validation"):
        names = [p.relative_to(root / domain) for p in sorted((root / domain).rglob("*.jpg"))]
        (root / domain / "image_list.txt").write_text("".join(f"{name} 0\n" for name in names))
    return root


def table(path: Path, rows: Sequence[Sequence[Any]], mark: str = ",", start: str = "") -> Path:
    """Write a delimited text table; the first row is the header."""
    lines = "".join(mark.join(map(str, row)) + "\n" for row in rows)
    path.write_text(start + lines, encoding="utf-8")
    return path


def cifar_batches(root: Path, official: Any, patch: pytest.MonkeyPatch, number: int = 6) -> Path:
    """Write batches as in CIFAR for Python and patch the checksums in torchvision."""
    folder = root / official.base_folder
    folder.mkdir(parents=True)
    coarse = official.meta["key"] == "fine_label_names"
    names = [f"class_{label:02d}" for label in range(100 if coarse else 10)]
    for kind in ("train_list", "test_list"):
        listed = []
        for index, (file, _) in enumerate(getattr(official, kind)):
            labels = list(range(len(names))) * number
            rng = np.random.default_rng(index + 100 * (kind == "test_list"))
            pixels = rng.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
            key = "fine_labels" if coarse else "labels"
            content = pickle.dumps({"data": pixels, key: labels})
            (folder / file).write_bytes(content)
            listed.append([file, hashlib.md5(content).hexdigest()])
        patch.setattr(official, kind, listed)
    content = pickle.dumps({official.meta["key"]: names})
    (folder / official.meta["filename"]).write_bytes(content)
    patch.setattr(official, "meta", {**official.meta, "md5": hashlib.md5(content).hexdigest()})
    return folder


BREEDS_OF_PETS = ("Abyssinian", "american_bulldog", "yorkshire_terrier")


def pets(root: Path, train: int = 8, test: int = 4, lists: bool = True) -> Path:
    """Write ``images/`` and ``annotations/`` as in the Oxford-IIIT Pet archives."""
    lines: dict[str, list[str]] = {"trainval": [], "test": []}
    for label, breed in enumerate(BREEDS_OF_PETS):
        for index in range(train + test):
            name = f"{breed}_{index + 1}"
            image(root / "images" / f"{name}.jpg", 1000 * label + index)
            lines["trainval" if index < train else "test"].append(f"{name} {label + 1} 1 1\n")
    (root / "images" / f"{BREEDS_OF_PETS[0]}_100.mat").write_bytes(b"MATLAB")
    if lists:
        (root / "annotations").mkdir()
        for split, listed in lines.items():
            (root / "annotations" / f"{split}.txt").write_text(
                "#Image CLASS-ID\n" + "".join(listed)
            )
    return root


@contextmanager
def served(files: Mapping[str, bytes]) -> Iterator[str]:
    """Serve files by name over HTTP on the loopback interface and yield the base URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> bytes | None:
            content = files.get(self.path.lstrip("/"))
            if content is None:
                self.send_error(404)
                return None
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            return content

        def do_GET(self) -> None:
            content = self.do_HEAD()
            if content is not None:
                self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            pass

    with serving(Handler) as address:
        yield address


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Run a server on the loopback interface and yield its base URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def archive(folder: Path) -> bytes:
    """Return the content of a ``.tar.gz`` archive of a folder."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    return content.getvalue()


def official_dogs(root: Path, train: int = 8, test: int = 4, lists: str | None = "lists") -> Path:
    """Write ``Images/<nWNID-Breed>/`` and the lists as MATLAB files, as in Stanford Dogs."""
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
    """Return arrays as in MNIST: bright blobs on black, with all classes present."""
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
    """Write ``mnist.npz`` or ``usps.npz`` and return its arrays."""
    arrays = digit_arrays(**kwargs)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return arrays


def digits_idx(
    folder: Path, *, packed: bool = False, dotted: bool = False, **kwargs: int
) -> dict[str, np.ndarray]:
    """Write the four IDX files of MNIST."""
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
    """Write USPS as on the LIBSVM site: labels 1 to 10, pixels in [-1, 1]."""
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


def svhn_mat(folder: Path, train: int = 40, test: int = 20) -> dict[str, np.ndarray]:
    """Write SVHN as its authors did, 0 being labelled 10, and return the arrays with labels 0-9."""
    from scipy.io import savemat

    rng = np.random.default_rng(2)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for split, number in (("train", train), ("test", test)):
        pixels = rng.integers(0, 256, (number, 32, 32, 3), dtype=np.uint8)
        labels = (np.arange(number) % 10).astype(np.uint8)
        stored = np.where(labels == 0, 10, labels)[:, None]
        savemat(folder / f"{split}_32x32.mat", {"X": pixels.transpose(1, 2, 3, 0), "y": stored})
        arrays |= {f"x_{split}": pixels, f"y_{split}": labels}
    return arrays


def mnistm_png(folder: Path, train: int = 24, test: int = 20) -> dict[str, np.ndarray]:
    """Write MNIST-M as published, in lists that are not sorted by name, and return its arrays."""
    rng = np.random.default_rng(3)
    arrays = {}
    for split, number in (("train", train), ("test", test)):
        images = folder / f"mnist_m_{split}"
        images.mkdir(parents=True)
        pixels = rng.integers(0, 256, (number, 32, 32, 3), dtype=np.uint8)
        labels = rng.permutation(number) % 10
        names = [f"{index:08d}.png" for index in rng.permutation(number)]
        for name, picture in zip(names, pixels, strict=True):
            Image.fromarray(picture).save(images / name)
        lines = [f"{name} {label}\n" for name, label in zip(names, labels, strict=True)]
        (folder / f"mnist_m_{split}_labels.txt").write_text("".join(lines))
        arrays |= {f"x_{split}": pixels, f"y_{split}": labels.astype(np.uint8)}
    return arrays


def photos(folder: Path, number: int = 3) -> Path:
    """Write photographs as in BSDS500, in portrait and landscape format."""
    for index in range(number):
        image(folder / f"{index}.jpg", index, (48, 36) if index % 2 else (36, 48))
    return folder


def two_domains(root: Path, size: tuple[int, int] = (48, 40)) -> Path:
    """Write ``root/{source,target}/{train,test}/<class>/`` without problems."""
    for seed, domain in ((0, "source"), (50_000, "target")):
        class_folders(root / domain / "train", 6, seed=seed, size=size)
        class_folders(root / domain / "test", 3, start=6, seed=seed, size=size)
    return root


def png_chunk(name: bytes, content: bytes) -> bytes:
    """Return one chunk of a PNG file."""
    body = name + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def with_broken_text(picture: Image.Image) -> bytes:
    """Return a PNG file with a compressed text whose checksum is wrong."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    content = file.getvalue()
    chunk = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"text"))
    return content[:33] + chunk[:-4] + b"\0\0\0\0" + content[33:]


def planted_problems(root: Path) -> dict[str, Path]:
    """Write two domains with nearly every kind of problem; return the affected file by kind.

    A second variant of a kind has the key ``<kind>/<variant>``.
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
    new("not_an_image", own / "text.jpg").write_text("<html>404 not found</html>")
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
    Image.new("RGB", (48, 40), "gray").save(new("flat", own / "blank.png"))
    noise("RGB").resize((16, 16)).save(new("tiny", own / "icon.png"))
    exif = Image.Exif()
    exif[0x0112] = 6
    noise("RGB").save(new("exif_rotated", own / "phone.jpg"), exif=exif)
    new("metadata", own / "chunk.png").write_bytes(with_broken_text(noise("RGB")))
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
    for split in ("train", "test"):  # One class has a different name in the target.
        (root / "target" / split / BREEDS[2]).rename(root / "target" / split / "n02085936-Maltese")
    return planted
