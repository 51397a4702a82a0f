"""Damaged files of every reader: no traceback, and the check and the run agree on each.

``TL_MUTATIONS=500`` sets the number of files per reader; docs/robustness.md has its figures.
"""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from sklearn.datasets import dump_svmlight_file

from layouts import BREEDS, class_folders, domain_folders, file_settings
from mutated import mutated
from tl_lightning.data.checks.files import examine
from tl_lightning.data.checks.issues import BROKEN
from tl_lightning.data.checks.survey import survey
from tl_lightning.data.datamodules.domain_folders import DomainFoldersDataModule
from tl_lightning.data.datamodules.image_table import ImageTableDataModule
from tl_lightning.data.datamodules.text_folders import TextFoldersDataModule
from tl_lightning.data.datamodules.vector import VectorDataModule
from tl_lightning.data.domain import Split
from tl_lightning.data.io.depth import white_of
from tl_lightning.data.io.folders import check_signatures
from tl_lightning.data.loaders import dataset_of
from tl_lightning.data.transforms.geometry import Centre
from tl_lightning.data.transforms.presets import augmentation
from tl_lightning.errors import DataError
from tl_lightning.inference.sources import from_input
from tl_lightning.types import InputSpec

SPEC = InputSpec(16, (0.5,) * 3, (0.5,) * 3)
FEW, MANY = 30, int(os.environ.get("TL_MUTATIONS", "500"))

IMAGES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "JPEG": [("RGB", {"quality": 80}), ("RGB", {"progressive": True}), ("CMYK", {}), ("L", {})],
    "PNG": [("RGB", {}), ("RGBA", {}), ("P", {"transparency": 3}), ("I;16", {}), ("1", {})],
    "BMP": [("RGB", {}), ("P", {}), ("1", {})],
    "TIFF": [("RGB", {}), ("RGB", {"compression": "tiff_lzw"}), ("F", {}), ("I;16", {}),
             ("CMYK", {"compression": "tiff_deflate"}), ("RGB", {"compression": "jpeg"})],
    "GIF": [("P", {}), ("P", {"save_all": True})],
    "WEBP": [("RGB", {}), ("RGBA", {"lossless": True}), ("RGB", {"save_all": True})],
    "PPM": [("RGB", {}), ("L", {}), ("1", {})],
}  # fmt: skip


def encoded(kind: str, mode: str, options: dict[str, Any]) -> bytes:
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize((50, 40))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(small.convert("L")).astype(np.uint16) * 16)
    else:
        image = small.convert("L" if mode == "F" else mode).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    more = {"append_images": [image.rotate(180)]} if "save_all" in options else {}
    if kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        more |= {"exif": exif} | ({"icc_profile": b"profile" * 9} if kind != "TIFF" else {})
    file = io.BytesIO()
    image.save(file, kind, **options, **more)
    return file.getvalue()


def refuses(action: Any) -> bool:
    """Return whether an action raises DataError; any other exception fails the test."""
    try:
        action()
    except DataError:
        return True
    return False


def numbers(name: str) -> list[Any]:
    return [pytest.param(name, FEW), pytest.param(name, MANY, marks=pytest.mark.slow)]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize(("kind", "number"), [p for kind in IMAGES for p in numbers(kind)])
def test_images(tmp_path: Path, kind: str, number: int) -> None:
    originals = [encoded(kind, mode, options) for mode, options in IMAGES[kind]]
    path = tmp_path / f"a.{kind.lower()}"
    split = Split([path], None, ["a"])
    evaluated, trained = Centre(SPEC), augmentation(SPEC, "light").geometry
    broken = 0
    for index in range(number):
        path.write_bytes(mutated(originals[index % len(originals)], kind, index))

        def run(geometry: Any) -> torch.Tensor:
            check_signatures([path])
            white = white_of([path])
            one = Split(split.samples, None, split.names, white=white)
            return dataset_of(one, SPEC, geometry, None)[(0, 1)]["inputs"]

        listed = bool(set(BROKEN) & set(examine(path, white_of([path])).kinds))
        found = [refuses(lambda g=geometry: run(g)) for geometry in (evaluated, trained)]
        assert found == [listed, listed], (kind, index)
        broken += listed
    assert 0 < broken < number


def table_module(root: Path, file: Path) -> ImageTableDataModule:
    columns = {"path": "path", "label": "label", "domain": "domain", "split": "split"}
    return ImageTableDataModule(
        **file_settings(root, table=str(file), delimiter=None, columns=columns, label_columns=[])
    )


def list_module(root: Path, _: Path) -> DomainFoldersDataModule:
    return DomainFoldersDataModule(
        **file_settings(
            root, folders=[], known={}, elsewhere="", source={"root": None, "domain": "photo"}
        )
    )


def vector_module(_: Path, file: Path) -> VectorDataModule:
    settings = file_settings(file.parent, source={"train": str(file), "test": None})
    for key in (
        "root",
        "classes",
        "transductive",
        "on_error",
        "max_value",
        "augment",
        "test_split",
    ):
        del settings[key]
    del settings["mixup_alpha"], settings["cutmix_alpha"]
    return VectorDataModule(**settings, max_features=None, scale="standard")


def rows(root: Path) -> list[list[str]]:
    class_folders(root, 4)
    paths = sorted(root.glob("*/*.jpg"))
    return [["path", "label"], *([str(path.relative_to(root)), path.parent.name] for path in paths)]


def written(tmp_path: Path, kind: str) -> Path:
    """Write an undamaged file of this kind and what it refers to; return its path."""
    file = tmp_path / f"list.{kind}"
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(24, 5)).astype(np.float32), np.arange(24) % 3
    if kind == "csv":
        with file.open("w", newline="") as handle:
            csv.writer(handle).writerows(rows(tmp_path))
    elif kind == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        columns, *cells = rows(tmp_path)
        table = pyarrow.table({name: [row[k] for row in cells] for k, name in enumerate(columns)})
        parquet.write_table(table, file)
    elif kind == "txt":
        domain_folders(tmp_path)
        file = tmp_path / "photo_train.txt"
        paths = sorted((tmp_path / "photo").rglob("*.jpg"))
        classes = sorted({path.parent.name for path in paths})
        lines = [f"{p.relative_to(tmp_path)} {classes.index(p.parent.name)}\n" for p in paths]
        file.write_text("".join(lines[::2]))
        (tmp_path / "photo_test.txt").write_text("".join(lines[1::2]))
    elif kind == "npz":
        np.savez(file, x=x, y=y)
    elif kind == "mat":
        savemat(file, {"fts": x, "labels": y[:, None]}, do_compression=True)
    else:
        dump_svmlight_file(x, y, str(file))
    return file


MODULES = {
    "csv": table_module, "parquet": table_module, "txt": list_module,
    "npz": vector_module, "mat": vector_module, "svmlight": vector_module,
}  # fmt: skip


@pytest.mark.parametrize(("kind", "number"), [p for kind in MODULES for p in numbers(kind)])
def test_tables_lists_and_vectors(tmp_path: Path, kind: str, number: int) -> None:
    file = written(tmp_path, kind)
    original = file.read_bytes()
    build = MODULES[kind]
    assert not refuses(build(tmp_path, file).discover)
    broken = 0
    for index in range(number):
        file.write_bytes(mutated(original, kind, index))
        refused = refuses(build(tmp_path, file).discover)
        report = survey(build(tmp_path, file))
        assert report["may_start"] == (not refused), (kind, index, report["problems"])
        broken += refused
    assert 0 < broken <= number


@pytest.mark.parametrize(("kind", "number"), numbers("text"))
def test_texts(tmp_path: Path, kind: str, number: int) -> None:
    original = "Ein schöner Text \N{SNOWMAN} über Züge.\n".encode() * 9
    for name in BREEDS:
        (tmp_path / name).mkdir()
        for index in range(6):
            (tmp_path / name / f"{index}.txt").write_bytes(original)
    settings = file_settings(tmp_path, too_long="truncate", bucket=3)
    for key in ("on_error", "max_value", "augment", "mixup_alpha", "cutmix_alpha"):
        del settings[key]
    file = tmp_path / BREEDS[0] / "0.txt"
    broken = 0
    for index in range(number):
        file.write_bytes(mutated(original, kind, index))
        trained = refuses(TextFoldersDataModule(**settings).discover)
        try:
            file.read_bytes().decode()
            valid = bool(file.read_bytes().decode().removeprefix("\ufeff").strip())
        except UnicodeDecodeError:
            valid = False
        assert trained == (not valid), index
        refuses(lambda: list(from_input(str(file), "texts").samples))
        broken += trained
    assert 0 < broken < number
