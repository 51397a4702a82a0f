"""Labels are the same classes wherever they are written, and are checked in the same way."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest

from layouts import class_folders, file_settings, image, table
from tl_lightning.data.datamodules.class_folders import ClassFoldersDataModule
from tl_lightning.data.datamodules.domain_folders import DomainFoldersDataModule
from tl_lightning.data.datamodules.image_table import ImageTableDataModule
from tl_lightning.data.io.folders import scan_classes
from tl_lightning.data.io.tables import read_rows
from tl_lightning.data.io.texts import scan_texts
from tl_lightning.data.io.vectors import read_vectors
from tl_lightning.errors import DataError

#: Three classes and how somebody else may write them.
PLAIN = ("Café", "dog", "müll")
OTHERS = tuple(unicodedata.normalize("NFD", name) + " " for name in PLAIN)


def listed(root: Path, rows: list[list[str]], head: tuple[str, ...] = ("path", "label"), **changed):
    """Return a data module of a table; the images in it are written."""
    for number, row in enumerate(rows):
        if not (root / row[0]).exists():
            image(root / row[0], number)
    columns = {name: name for name in ("path", "label", "domain", "split")}
    given = {"table": str(table(root / "list.csv", [list(head), *rows])), "delimiter": None,
             "columns": columns, "label_columns": [], "source": {}, **changed}  # fmt: skip
    return ImageTableDataModule(**file_settings(root, **given))


def rows(names, number: int = 6) -> list[list[str]]:
    return [[f"{k}/{i}.png", name] for k, name in enumerate(names) for i in range(number)]


@pytest.mark.parametrize("names", [PLAIN, OTHERS])
def test_every_reader_has_the_same_classes(tmp_path, names) -> None:
    class_folders(tmp_path / "images", 2, names)
    assert tuple(scan_classes(tmp_path / "images")) == PLAIN
    for name in names:
        (tmp_path / "texts" / name).mkdir(parents=True)
        (tmp_path / "texts" / name / "a.txt").write_text("a")
    assert tuple(scan_texts(tmp_path / "texts")) == PLAIN
    np.savez(tmp_path / "x.npz", x=np.ones((3, 2)), y=np.array(names))
    assert tuple(read_vectors(tmp_path / "x.npz", "data.source.train").y) == PLAIN
    data = listed(tmp_path / "table", rows(names))
    data.discover()
    assert data.classes == PLAIN
    chosen = listed(tmp_path / "table", rows(names), classes=[OTHERS[2], PLAIN[0]])
    chosen.discover()
    assert chosen.classes == (PLAIN[2], PLAIN[0])


def test_domains_match_however_their_folders_are_written(tmp_path) -> None:
    class_folders(tmp_path / "a", 6, PLAIN)
    class_folders(tmp_path / "b", 6, OTHERS)
    data = ClassFoldersDataModule(**file_settings(tmp_path / "a", target={"root": tmp_path / "b"}))
    data.discover()
    for name, label in zip(data.found["target"].test.names, data.found["target"].test.labels,
                           strict=True):  # fmt: skip
        assert unicodedata.normalize("NFC", name).startswith(PLAIN[label])


def test_two_folders_of_one_class_are_one_class(tmp_path) -> None:
    class_folders(tmp_path, 2, (PLAIN[0], OTHERS[0], "dog"))
    assert {name: len(files) for name, files in scan_classes(tmp_path).items()} == {
        "Café": 4, "dog": 2,
    }  # fmt: skip


def test_the_split_does_not_depend_on_the_form_of_letters(tmp_path) -> None:
    held = []
    for form in ("NFC", "NFD"):
        root = tmp_path / form
        for number in range(12):
            image(root / "dog" / unicodedata.normalize(form, f"bär{number}.png"), number)
            image(root / "cat" / f"{number}.png", number)
        data = ClassFoldersDataModule(**file_settings(root))
        data.discover()
        held.append([unicodedata.normalize("NFC", n) for n in data.found["source"].test.names])
    assert sorted(held[0]) == sorted(held[1])


@pytest.mark.parametrize("label", ["nan", "NaN", "None", "null", "1.5", "<NA>", "inf"])
def test_missing_labels_are_refused(tmp_path, label) -> None:
    message = r"1 row\(s\) with a label that is neither a name nor an integer: line 2 '"
    with pytest.raises(DataError, match=message):
        listed(tmp_path, [["x.png", label], *rows(PLAIN)]).discover()
    np.savez(tmp_path / "x.npz", x=np.ones((3, 2)), y=np.array(["a", label, "b"]))
    with pytest.raises(DataError, match=r"1 labels are neither names nor integers, the first is '"):
        read_vectors(tmp_path / "x.npz", "data.source.train")


def test_empty_labels_are_refused_in_the_source(tmp_path) -> None:
    with pytest.raises(DataError, match=r"1 row\(s\) with an empty label: line 2; fix or remove"):
        listed(tmp_path, [["x.png", ""], *rows(PLAIN)]).discover()
    np.savez(tmp_path / "x.npz", x=np.ones((3, 2)), y=np.array(["a", " ", "b"]))
    with pytest.raises(DataError, match=r"neither names nor integers, the first is '' in row 1"):
        read_vectors(tmp_path / "x.npz", "data.source.train")


def test_integers_next_to_missing_values_remain_integers(tmp_path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"label": [1.0, None, 2.0]}), tmp_path / "a.parquet")
    _, found = read_rows(tmp_path / "a.parquet", None, ["label"])
    assert [row.cells["label"] for row in found] == ["1", "", "2"]


def test_similar_names_and_untrained_classes_are_told(tmp_path) -> None:
    found = [[path, label, "train"] for path, label in rows(("Cat", "cat", "dog"))]
    found += [[f"test/{i}.png", label, "test"] for i, label in enumerate(("cat", "owl", "owl"))]
    data = listed(tmp_path, found, ("path", "label", "split"))
    data.discover()
    expected = [
        "classes of source that differ only in case or spaces: 'Cat', 'cat'; are they the same "
        "class?",
        "1 of 4 classes of source have no training samples, so that they are never predicted: owl "
        "(2 test samples)",
    ]
    assert data.remarks() == expected
    assert set(expected) <= set(data.notes(pretrained=False))


# -- paths in tables ---------------------------------------------------------------------------
def test_decomposed_files_are_found_by_composed_rows(tmp_path) -> None:
    names = [unicodedata.normalize("NFD", f"grün/bär{i}.png") for i in range(6)]
    for number, name in enumerate([*names, *(f"rot/{i}.png" for i in range(6))]):
        image(tmp_path / name, number)
    found = [[unicodedata.normalize("NFC", name), "bear"] for name in names]
    data = listed(tmp_path, [*found, *([f"rot/{i}.png", "fox"] for i in range(6))])
    data.discover()
    assert sum(data.counts().values()) == 12


def test_tables_written_on_windows(tmp_path) -> None:
    one, other = (listed(tmp_path, rows(PLAIN)) for _ in range(2))
    other.table = str(table(tmp_path / "win.csv", [
        ["path", "label"], *([path.replace("/", "\\"), label] for path, label in rows(PLAIN)),
    ]))  # fmt: skip
    for data in (one, other):
        data.discover()
    assert one.found["source"].test.names == other.found["source"].test.names


def test_ids_without_suffix(tmp_path) -> None:
    for number in range(12):
        image(tmp_path / "train" / f"0a.{number}.{'jpg' if number % 2 else 'PNG'}", number)
    ids = [[f"0a.{number}", "ab"[number % 2]] for number in range(12)]
    listing = table(tmp_path / "list.csv", [["path", "label"], *ids])
    data = listed(tmp_path / "train", [], table=str(listing))
    data.discover()
    assert sum(data.counts().values()) == 12
    image(tmp_path / "train" / "0a.3.bmp", 1)
    data = listed(tmp_path / "train", [], table=str(listing))
    message = (
        r"of which there are several: line 5 0a\.3 \(0a\.3\.bmp, 0a\.3\.jpg\); add the suffixes"
    )
    with pytest.raises(DataError, match=message):
        data.discover()


def test_official_lists_in_another_form(tmp_path) -> None:
    class_folders(tmp_path / "photo", 4, OTHERS[:2])
    files = sorted((tmp_path / "photo").rglob("*.jpg"))
    for split, chosen in (("train", [0, 1, 2, 4, 5, 6]), ("test", [3, 7])):
        lines = [f"{files[k].relative_to(tmp_path).as_posix()} 0\n" for k in chosen]
        text = unicodedata.normalize("NFC", "".join(lines))
        (tmp_path / f"photo_{split}.txt").write_text(text, encoding="utf-8")
    data = DomainFoldersDataModule(**file_settings(
        tmp_path, folders=[], known={}, elsewhere="", source={"domain": "photo"},
    ))  # fmt: skip
    data.discover()
    assert data.classes == PLAIN[:2]
    assert data.counts()["source/test"] == 2
