"""Targets whose classes are not those of the source, for folders, tables and vectors."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layouts import BREEDS, class_folders, file_settings, table
from tl_lightning.data.class_sets import UNKNOWN
from tl_lightning.data.datamodules.class_folders import ClassFoldersDataModule
from tl_lightning.data.datamodules.image_table import COLUMNS, ImageTableDataModule
from tl_lightning.data.datamodules.vector import VectorDataModule
from tl_lightning.errors import DataError

FIRST, SECOND, THIRD = BREEDS


def folders(root: Path, place: Path, sets: str, **kwargs: Any) -> ClassFoldersDataModule:
    own = {**kwargs.pop("target", {}), "root": str(place), "classes": sets}
    return ClassFoldersDataModule(**file_settings(root, target=own, **kwargs))


def discovered(*args: Any, **kwargs: Any) -> ClassFoldersDataModule:
    data = folders(*args, **kwargs)
    data.discover()
    return data


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """Return a source with all breeds, and a target with the same ones."""
    return class_folders(tmp_path / "photos", 10), class_folders(tmp_path / "target", 10)


def labels(data: Any, split: str = "test") -> list[int]:
    return sorted(set(getattr(data.found["target"], split).labels.tolist()))


def test_a_subset_keeps_the_numbers_of_the_classes(places) -> None:
    source, target = places
    shutil.rmtree(target / FIRST)
    data = discovered(source, target, "subset")
    assert (labels(data), data.found["target"].classes, data.classes) == ([1, 2], BREEDS, BREEDS)
    assert data.found["target"].note.startswith(
        "data.target.classes=subset: 2 of the 3 classes of the source"
    )


@pytest.mark.parametrize("classes", ["open", "universal"])
def test_unknown_classes_are_one_label_for_testing_only(places, classes) -> None:
    source, target = places
    for name in ("cat", "fox"):
        (target / name).mkdir()
    for number, file in enumerate(sorted((target / THIRD).iterdir())):
        file.rename(target / ("cat" if number % 2 else "fox") / file.name)
    (target / THIRD).rmdir()
    if classes == "open":
        with pytest.raises(DataError, match=r"missing: n02085936-Maltese_dog; .*universal \(both"):
            discovered(source, target, "open")
        shutil.rmtree(source / THIRD)
    data = discovered(source, target, classes)
    known = 3 if classes == "universal" else 2
    assert labels(data) == [0, 1, known]
    assert data.found["target"].classes == (*data.classes, UNKNOWN)
    assert "2 unknown class(es) (cat, fox), which are one class 'unknown'" in (
        data.found["target"].note
    )
    assert data.class_counts() == [len(data.found["source"].train) // known] * known
    data.prepare()
    assert all("labels" not in batch for batch in data.train_dataloader()["target"])
    assert all("labels" not in batch for batch in data.val_dataloader()[1])


def test_classes_left_out_of_the_source_are_unknown(places) -> None:
    data = discovered(*places, "open", classes=[FIRST, THIRD])
    assert (data.classes, labels(data)) == ((FIRST, THIRD), [0, 1, 2])
    data = discovered(*places, "subset", classes=[FIRST, THIRD])
    assert (data.classes, labels(data)) == ((FIRST, THIRD), [0, 1])


def test_a_labelled_test_set_may_have_unknown_classes(places, tmp_path) -> None:
    source, target = places
    (target / THIRD).rename(target / "cat")
    bare = tmp_path / "bare"
    bare.mkdir()
    for number, file in enumerate(sorted((source / FIRST).iterdir())):
        shutil.copy(file, bare / f"{number}.jpg")
    with pytest.raises(DataError, match=r"extra: cat; .*set data\.target\.classes=subset"):
        discovered(source, bare, "same", target={"test": str(target)})
    data = discovered(source, bare, "universal", target={"test": str(target)})
    assert (labels(data), data.found["target"].train.labels) == ([0, 1, 3], None)
    assert data.found["target"].classes == (*BREEDS, UNKNOWN)


@pytest.mark.parametrize(
    ("changes", "classes", "message"),
    [
        ({FIRST: None}, "same", r"missing: n02085620-Chihuahua; .*; if the classes really differ"),
        ({FIRST: "cat"}, "subset", r"extra: cat; .*open \(also unknown ones\) or universal"),
        (
            {FIRST: FIRST.upper() + " "}, "universal",
            r"1 unknown class\(es\) of the target are named like a class of the source except for "
            r"case, spaces or punctuation: 'N02085620-CHIHUAHUA' \('n02085620-Chihuahua'\)",
        ),
        ({}, "some", r"data\.target\.classes=some is not valid; did you mean 'same'\?"),
    ],
)  # fmt: skip
def test_bad_classes_are_one_error(places, changes, classes, message) -> None:
    source, target = places
    for name, new in changes.items():
        shutil.rmtree(target / name) if new is None else (target / name).rename(target / new)
    with pytest.raises(DataError, match=message):
        discovered(source, target, classes)


def test_folders_none_of_which_is_a_class_are_not_labels(places) -> None:
    source, target = places
    (target / FIRST).rename(target / "a")
    (target / SECOND).rename(target / "b")
    shutil.rmtree(target / THIRD)
    found = discovered(source, target, "universal").found["target"]
    assert (found.test.labels, len(found.test)) == (None, 20)
    assert "has no class folders: 20 images without labels" in found.note


def test_a_class_named_unknown_is_refused(places) -> None:
    source, target = places
    (source / FIRST).rename(source / UNKNOWN)
    with pytest.raises(DataError, match=r"source has a class named 'unknown', which .*rename"):
        discovered(source, target, "universal")


def test_a_class_of_one_image_is_refused(places) -> None:
    source, target = places
    for file in sorted((target / FIRST).iterdir())[1:]:
        file.unlink()
    with pytest.raises(DataError, match=r"has only 1 sample\(s\), and none is left after holding"):
        discovered(source, target, "subset")


def test_few_labels_need_all_classes(places) -> None:
    with pytest.raises(DataError, match=r"labelled_per_class=1 takes labelled samples of every"):
        folders(*places, "subset", target={"labelled_per_class": 1})


def test_the_oracle_cannot_learn_unknown_classes(places) -> None:
    source, target = places
    (target / FIRST).rename(target / "cat")
    data = folders(source, target, "universal")
    with pytest.raises(DataError, match=r"model=oracle learns the labels of the target, but those"):
        data.discover(learn_from="target")


def test_rows_of_a_table(places, tmp_path) -> None:
    rows = [("path", "label", "domain")]
    rows += [
        (f"{part}/{name}/{file.name}", name if part == "photos" else other, part)
        for part in ("photos", "target")
        for name, other in zip(BREEDS, (FIRST, "cat", "fox"), strict=True)
        for file in sorted((tmp_path / part / name).iterdir())
    ]

    def read(classes: str) -> ImageTableDataModule:
        settings = file_settings(tmp_path, target={"domain": "target", "classes": classes})
        path = table(tmp_path / "list.csv", rows)
        data = ImageTableDataModule(
            table=str(path), delimiter=None, columns={name: name for name in COLUMNS},
            label_columns=(), **{**settings, "source": {"domain": "photos"}},
        )  # fmt: skip
        data.discover()
        return data

    data = read("universal")
    assert (data.classes, labels(data)) == (BREEDS, [0, 3])
    with pytest.raises(DataError, match=r"extra: cat, fox; .*if the classes really differ, set"):
        read("same")


def vectors(tmp_path: Path, target: Any, classes: str) -> VectorDataModule:
    x, rng = {}, np.random.default_rng(0)
    for name, y in (("source", np.arange(30) % 3), ("target", target)):
        x[name] = str(tmp_path / f"{name}.npz")
        np.savez(x[name], x=rng.normal(size=(len(y), 4)).astype(np.float32), y=y)
    data = VectorDataModule(
        name="vectors", val_fraction=0.2, test_fraction=0.2, max_features=None, scale="none",
        batch_size=4, eval_batch_size=64, steps_per_epoch=None, sampling="uniform",
        target_sampling="uniform", num_workers=0, seed=0, pin_memory=False,
        source={"train": x["source"], "test": None},
        target={"train": x["target"], "test": None, "classes": classes},
    )  # fmt: skip
    data.discover()
    return data


def test_vectors(tmp_path) -> None:
    data = vectors(tmp_path, np.arange(40) % 4 + 1, "universal")
    assert (data.classes, labels(data)) == (("0", "1", "2"), [1, 2, 3])
    assert "2 of the 3 classes of the source and 2 unknown class(es) (3, 4)" in (
        data.found["target"].note
    )
    with pytest.raises(DataError, match=r"class '3', which is not in .*; if the classes really"):
        vectors(tmp_path, np.arange(40) % 4, "subset")
    with pytest.raises(DataError, match=r"all 4 classes of data\.target\.train are unknown, none"):
        vectors(tmp_path, np.arange(40) % 4 + 5, "universal")
    with pytest.raises(DataError, match=r"1 labels are neither names nor integers, .* 'nan' in"):
        vectors(tmp_path, np.array([0.0, 1.0, np.nan, 2.0]), "universal")
