"""A target without labels: how it is recognised, split and described, for every kind of data."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layouts import (
    BREEDS,
    SHIFT,
    class_folders,
    domain_folders,
    file_settings,
    image,
    official_dogs,
    pets,
    table,
)
from tl_lightning.data.checks.preview import augmentation_sheet
from tl_lightning.data.datamodules.class_folders import ClassFoldersDataModule
from tl_lightning.data.datamodules.domain_folders import DomainFoldersDataModule
from tl_lightning.data.datamodules.image_table import COLUMNS, ImageTableDataModule
from tl_lightning.data.datamodules.oxford_pets import OxfordPetsDataModule
from tl_lightning.data.datamodules.stanford_dogs import StanfordDogsDataModule
from tl_lightning.data.datamodules.text_folders import TextDomainsDataModule, TextFoldersDataModule
from tl_lightning.data.datamodules.text_table import TextTableDataModule
from tl_lightning.data.datamodules.vector import VectorDataModule
from tl_lightning.data.io.folders import folders_below
from tl_lightning.data.needs import ModelNeeds
from tl_lightning.data.streaming.writer import _check
from tl_lightning.errors import DataError
from tl_lightning.types import InputSpec


def flat(folder: Path, number: int = 10, start: int = 0) -> Path:
    """Write ``folder/<n>.jpg``."""
    for index in range(start, start + number):
        image(folder / f"{index}.jpg", 9000 + index)
    return folder


def module(root: Path, target: Any, **kwargs: Any) -> Any:
    node = target if isinstance(target, dict) else {"root": str(target)}
    return ClassFoldersDataModule(**file_settings(root, target=node, **kwargs))


def found(root: Path, target: Any, **kwargs: Any) -> Any:
    data = module(root, target, **kwargs)
    data.discover()
    return data.found["target"]


def sizes(domain: Any) -> tuple[int, int, int]:
    return len(domain.train), len(domain.val), len(domain.test)


def has_labels(domain: Any) -> list[str]:
    return [name for name, split in domain.splits().items() if split.labels is not None]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "photos", 10)


# -- folders of images -------------------------------------------------------------------------
def test_flat_folder_is_a_target_without_labels(source, tmp_path) -> None:
    target = found(source, flat(tmp_path / "sketches"))
    assert (target.name, target.classes, has_labels(target)) == ("sketches", BREEDS, [])
    assert sizes(target) == (7, 3, 10)  # a quarter selects the model, all are predicted
    assert sorted(target.train.names + target.val.names) == sorted(target.test.names)
    assert target.test.names == sorted(f"{n}.jpg" for n in range(10))
    assert target.note == (
        f"data.target.root={tmp_path}/sketches has no class folders: 10 images without labels; "
        "7 for training, 3 for validation, and 10 are predicted, without accuracy"
    )


def test_split_depends_on_the_names_only(source, tmp_path) -> None:
    one = found(source, flat(tmp_path / "one"))
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    other = found(source, tmp_path / "other")
    assert one.val.names == other.val.names
    more = found(source, flat(tmp_path / "other", 2, 10))
    assert len(set(one.val.names) - set(more.val.names)) <= 1


@pytest.mark.slow
def test_batches_of_the_target_have_no_labels(source, tmp_path) -> None:
    data = module(source, flat(tmp_path / "sketches"))
    data.prepare(ModelNeeds(InputSpec(24, (0.5,) * 3, (0.5,) * 3, "bilinear")))
    for loaders in (data.val_dataloader(), data.test_dataloader()):
        assert [all("labels" in batch for batch in loader) for loader in loaders] == [True, False]
    assert all("labels" not in batch for batch in data.train_dataloader()["target"])
    sheet = augmentation_sheet(data, data.prepared.input_spec)
    assert sheet.startswith(b"\x89PNG")
    with pytest.raises(DataError, match=r"the target of data=tiny has images without labels"):
        _check("target", data.found["target"], "tiny")  # before shards are written


@pytest.mark.parametrize("folders", [["all"], ["2021/05", "2021/06", "2022/01", "2022/02"]])
def test_nested_images_are_used_at_any_depth(source, tmp_path, folders) -> None:
    for number, folder in enumerate(folders):
        flat(tmp_path / "nested" / folder, 12 // len(folders), 20 * number)
    flat(tmp_path / "nested" / ".hidden")
    target = found(source, tmp_path / "nested")
    assert (has_labels(target), len(target.test)) == ([], 12)
    assert target.test.names[0].startswith(folders[0])
    assert "has no class folders: 12 images without labels" in target.note


def test_spellings_are_compared_for_few_folders_only(source, tmp_path) -> None:
    for number in range(31):  # more than ten for each class
        image(tmp_path / "nested" / f"chihuahua {number}" / f"{number}.jpg", number)
    assert len(found(source, tmp_path / "nested").test) == 31


def test_loops_of_links_are_followed_once(tmp_path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").symlink_to(tmp_path / "a")
    assert folders_below(tmp_path) == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]


def test_folders_named_as_classes_mean_labels(source, tmp_path) -> None:
    class_folders(tmp_path / "target", 10)
    flat(tmp_path / "target")  # next to class folders, images are ignored as before
    target = found(source, tmp_path / "target")
    assert has_labels(target) == ["train", "val", "test"]
    assert sum(map(len, (target.train, target.val, target.test))) == 30
    (tmp_path / "target" / BREEDS[2]).rename(tmp_path / "target" / "other")
    message = (
        r"classes of the target differ: 3 expected, 3 found; missing: n02085936-Maltese_dog; .*"
        r"names match, or set data\.target\.root=/another/folder, or set data\.target\.labels=none"
    )
    with pytest.raises(DataError, match=message):
        found(source, tmp_path / "target")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a", "b", "c"), r"3 folder\(s\) with images in .*/target are not named as the 3 classes"),
        (("x/a", "x/b", "x/c", "y/d"), "4 folder.*may be meant as classes: a, b, c, d; classes"),
        (
            ("Chihuahua", "spaniel"),
            r"Chihuahua \(did you mean n02085620-Chihuahua\?\), spaniel \(did",
        ),
        (("n02085621 chihuahau",), r"did you mean n02085620-Chihuahua\?.*target\.labels=none to"),
    ],
)
def test_misspelt_class_folders_are_not_silently_unlabelled(
    source, tmp_path, names, message
) -> None:
    for number, name in enumerate(names):
        flat(tmp_path / "target" / name, 5, 10 * number)
    with pytest.raises(DataError, match=rf"data\.target\.root: .*{message}|{message}"):
        found(source, tmp_path / "target")
    target = found(source, {"root": str(tmp_path / "target"), "labels": "none"})
    assert (has_labels(target), len(target.test)) == ([], 5 * len(names))
    assert target.note.startswith(f"data.target.labels=none: {5 * len(names)} images of")


def test_labels_none_ignores_class_folders(source, tmp_path) -> None:
    class_folders(tmp_path / "target", 4)
    target = found(source, {"root": str(tmp_path / "target"), "labels": "none"})
    assert (has_labels(target), len(target.test)) == ([], 12)
    with pytest.raises(DataError, match=r"data\.target\.labels=no is not valid; .*none"):
        found(source, {"root": str(tmp_path / "target"), "labels": "no"})


def test_labels_none_applies_to_a_synthetic_target(source) -> None:
    target = found(source, {"shift": SHIFT, "labels": "none"})
    assert has_labels(target) == []


def test_empty_folder_is_still_an_error(source, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"not found with data\.target\.root=.*/empty"):
        found(source, tmp_path / "empty")


def test_class_filter_keeps_the_images_without_labels(source, tmp_path) -> None:
    target = found(source, flat(tmp_path / "sketches"), classes=list(BREEDS[:2]))
    assert (target.classes, len(target.test)) == (BREEDS[:2], 10)


def test_transductive_training_uses_all_images(source, tmp_path) -> None:
    target = found(source, flat(tmp_path / "sketches"), transductive=True)
    assert sizes(target) == (10, 3, 10)
    assert target.note.endswith("transductive: training (without labels) and testing use all "
                                "target samples")  # fmt: skip


# -- a labelled test set -----------------------------------------------------------------------
def test_labelled_test_set_beside_the_target(source, tmp_path) -> None:
    class_folders(tmp_path / "test", 3, BREEDS[1:], seed=77)
    node = {"root": str(flat(tmp_path / "sketches")), "test": str(tmp_path / "test")}
    target = found(source, node)
    assert (sizes(target), has_labels(target)) == ((7, 3, 6), ["test"])
    for path, label in zip(target.test.samples, target.test.labels, strict=True):
        assert path.parent.name == BREEDS[label]
    assert not set(target.test.names) & set(target.train.names + target.val.names)
    assert f"data.target.test={tmp_path}/test: 6 labelled test images, of 2 of 3" in target.note
    assert "without accuracy" not in target.note


def test_names_of_the_test_set_cannot_collide(source, tmp_path) -> None:
    flat(tmp_path / "sketches" / "test" / BREEDS[0], 3)
    flat(tmp_path / "sketches" / "b", 3)
    for breed in BREEDS:
        image(tmp_path / "test" / breed / "0.jpg", 5)
    node = {"root": str(tmp_path / "sketches"), "test": str(tmp_path / "test"), "labels": "none"}
    target = found(source, node)
    assert len(target.whole()) == 9


def test_test_set_of_a_labelled_target_leaves_its_labels(source, tmp_path) -> None:
    class_folders(tmp_path / "target", 4)
    class_folders(tmp_path / "test", 3, seed=77)
    node = {"root": str(tmp_path / "target"), "test": str(tmp_path / "test")}
    target = found(source, node)
    assert (sizes(target), has_labels(target)) == ((9, 3, 9), ["train", "val", "test"])


def test_image_in_training_and_test_set_is_an_error(source, tmp_path) -> None:
    class_folders(tmp_path / "all" / "test", 2, seed=77)
    flat(tmp_path / "all")
    node = {"root": str(tmp_path / "all"), "test": str(tmp_path / "all" / "test")}
    with pytest.raises(DataError, match=r"images and data\.target\.test=.* both contain .* 5 more"):
        found(source, {**node, "labels": "none"})
    flat(tmp_path / "sketches")
    with pytest.raises(DataError, match=r"data\.source and data\.target both contain"):
        found(source, {"root": str(tmp_path / "sketches"), "test": str(source)})


def test_test_set_must_have_the_classes_of_the_source(source, tmp_path) -> None:
    class_folders(tmp_path / "test", 3, ("cat", *BREEDS[:2]))
    node = {"root": str(flat(tmp_path / "sketches")), "test": str(tmp_path / "test")}
    with pytest.raises(
        DataError, match=r"classes of data\.target\.test=.*/test differ.*extra: cat"
    ):
        found(source, node)
    with pytest.raises(DataError, match=r"not found with data\.target\.test=/nowhere"):
        found(source, {**node, "test": "/nowhere"})


def test_settings_that_contradict_a_test_set_are_errors(source, tmp_path) -> None:
    class_folders(tmp_path / "test", 3, seed=77)
    node = {"root": str(flat(tmp_path / "sketches")), "test": str(tmp_path / "test")}
    with pytest.raises(DataError, match=r"labelled test set of its own; set data\.transductive=fa"):
        found(source, node, transductive=True)
    flat(tmp_path / "split" / "train")
    flat(tmp_path / "split" / "test", 4, 20)
    with pytest.raises(DataError, match=r"but the target has a test split of 4 images itself"):
        found(source, {**node, "root": str(tmp_path / "split")})


def test_test_set_without_a_target_is_an_error(source) -> None:
    with pytest.raises(DataError, match=r"target\.test=/x is a test set of a target, but no targe"):
        found(source, {"test": "/x", "shift": SHIFT})


def test_train_without_labels_and_test_with_class_folders(source, tmp_path) -> None:
    flat(tmp_path / "target" / "train")
    class_folders(tmp_path / "target" / "test", 3, seed=77)
    target = found(source, tmp_path / "target")
    assert (sizes(target), has_labels(target)) == ((7, 3, 9), ["test"])
    assert target.test.names[0] == f"test/{BREEDS[0]}/n02085620_0.jpg"
    with pytest.raises(DataError, match=r"a labelled test set of its own"):
        found(source, tmp_path / "target", transductive=True)
    target = found(source, {"root": str(tmp_path / "target"), "labels": "none"})
    assert (sizes(target), has_labels(target)) == ((7, 3, 9), [])
    for name in ("val", "valid"):
        flat(tmp_path / "target" / name, 2, 30)
    with pytest.raises(
        DataError, match=r"has several folders of the split val: val and valid; keep one"
    ):
        found(source, tmp_path / "target")


def test_what_needs_labels_is_refused(source, tmp_path) -> None:
    node = {"root": str(flat(tmp_path / "sketches")), "labelled_per_class": 1}
    with pytest.raises(DataError, match=r"labelled_per_class=1 needs labels.*=0, or put them in"):
        found(source, node)
    data = module(source, tmp_path / "sketches")
    with pytest.raises(
        DataError, match=r"model=oracle learns target labels, but sketches has none"
    ):
        data.discover(learn_from="target")


# -- other datasets of images ------------------------------------------------------------------
def test_datasets_with_a_layout_of_their_own_take_a_flat_folder(tmp_path) -> None:
    settings = {"target": {"root": str(flat(tmp_path / "flat"))}, "download": False}
    official_dogs(tmp_path / "dogs")
    data = StanfordDogsDataModule(**file_settings(tmp_path / "dogs", **settings))
    data.discover()
    assert (has_labels(data.found["target"]), sizes(data.found["target"])) == ([], (7, 3, 10))
    pets(tmp_path / "pets")
    pets(tmp_path / "more", lists=False)
    settings["target"] = {"root": str(tmp_path / "more")}  # breeds are in the names of the files
    data = OxfordPetsDataModule(**file_settings(tmp_path / "pets", **settings))
    data.discover()
    assert has_labels(data.found["target"]) == ["train", "val", "test"]
    for path in (tmp_path / "more" / "images").glob("Abyssinian*"):
        path.unlink()  # one class less than the source, whose names do not matter
    settings["target"]["labels"] = "none"
    data = OxfordPetsDataModule(**file_settings(tmp_path / "pets", **settings))
    data.discover()
    assert (has_labels(data.found["target"]), len(data.found["target"].test)) == ([], 24)


def domains(folder: Path, **target: Any) -> Any:
    data = DomainFoldersDataModule(
        folders=[], known={}, elsewhere="",
        **file_settings(folder, source={"domain": "photo"}, target=target),
    )  # fmt: skip
    data.discover()
    return data.found["target"]


def test_domain_without_class_folders(tmp_path) -> None:
    domain_folders(tmp_path / "set", ("photo", "art"))
    flat(tmp_path / "set" / "sketch")
    target = domains(tmp_path / "set", domain="sketch")
    assert (target.name, has_labels(target), sizes(target)) == ("sketch", [], (7, 3, 10))
    assert target.note.startswith(f"{tmp_path}/set/sketch has no class folders: 10 images")
    target = domains(tmp_path / "set", domain=["sketch"], root=str(tmp_path / "set"))
    assert sizes(target) == (7, 3, 10)
    with pytest.raises(DataError, match="domains of the target, sketch has no labels, but art has"):
        domains(tmp_path / "set", domain=["art", "sketch"])
    target = domains(tmp_path / "set", domain=["art", "sketch"], labels="none")
    assert (has_labels(target), len(target.test)) == ([], 40)
    shutil.move(tmp_path / "set" / "sketch", tmp_path / "other" / "sketch")
    target = domains(tmp_path / "set", domain="sketch", root=str(tmp_path / "other"))
    assert sizes(target) == (7, 3, 10)
    target = domains(tmp_path / "set", domain=None, root=str(tmp_path / "other"))
    assert (target.name, sizes(target)) == ("other", (7, 3, 10))


# -- tables ------------------------------------------------------------------------------------
def rows(root: Path, labelled: Any = lambda split: False, splits: bool = False) -> list[list[str]]:
    """Return rows of two domains; ``labelled`` says which target splits have labels."""
    domain_folders(root, ("photo", "sketch"), 10, ("dog", "horse"))
    listed = []
    for number, path in enumerate(sorted(root.rglob("*.jpg"))):
        split = "test" if number % 5 == 0 else "train"
        known = path.parts[-3] == "photo" or labelled(split)
        label = path.parent.name if known else ""
        listed.append([path.relative_to(root).as_posix(), label, path.parts[-3]])
        listed[-1] += [split] if splits else []
    return listed


def of_table(file: Path, listed: list[Any], **target: Any) -> Any:
    header = ["path", "label", "domain", "split"][: len(listed[0])]
    data = ImageTableDataModule(
        table=str(table(file, [header, *listed])), delimiter=None, label_columns=[],
        columns={name: name for name in COLUMNS},
        **file_settings(file.parent, source={"domain": "photo"},
                        target={"domain": "sketch", **target}),
    )  # fmt: skip
    data.discover()
    return data.found["target"]


def test_rows_of_the_target_without_labels(tmp_path) -> None:
    target = of_table(tmp_path / "list.csv", rows(tmp_path))
    assert (has_labels(target), sizes(target), target.classes) == (
        [],
        (15, 5, 20),
        ("dog", "horse"),
    )
    assert target.note.startswith("20 images without labels; 15 for training, 5 for")


def test_only_the_training_rows_without_labels(tmp_path) -> None:
    listed = rows(tmp_path, lambda split: split == "test", splits=True)
    target = of_table(tmp_path / "list.csv", listed)
    assert (has_labels(target), sizes(target)) == (["test"], (12, 4, 4))
    assert target.note == "16 images without labels"
    target = of_table(tmp_path / "list.csv", listed, labels="none")
    assert (has_labels(target), sizes(target)) == ([], (12, 4, 4))


def test_half_labelled_rows_are_an_error(tmp_path) -> None:
    listed = rows(tmp_path, lambda split: True)
    sketches = [row for row in listed if row[2] == "sketch"]
    sketches[0][1] = ""
    with pytest.raises(
        DataError, match=r"has 1 row\(s\) with an empty label next to labelled rows"
    ):
        of_table(tmp_path / "list.csv", listed)
    assert has_labels(of_table(tmp_path / "list.csv", listed, labels="none")) == []
    listed[0][1] = ""  # of the source
    with pytest.raises(DataError, match=r"has 1 row\(s\) with an empty label: line 2; fix or rem"):
        of_table(tmp_path / "list.csv", listed, labels="none")


def test_second_table_is_the_test_set(tmp_path) -> None:
    listed = rows(tmp_path)
    class_folders(tmp_path / "own", 3, ("dog",), seed=5)
    more = [[f"own/dog/dog_{n}.jpg", "dog", "any"] for n in range(3)]
    file = table(tmp_path / "test.csv", [["path", "label", "domain"], *more])
    target = of_table(tmp_path / "list.csv", listed, test=str(file))
    assert (has_labels(target), sizes(target)) == (["test"], (15, 5, 3))
    assert target.test.labels.tolist() == [0, 0, 0]
    more[0][1] = ""
    table(file, [["path", "label", "domain"], *more])
    with pytest.raises(DataError, match=r"test\.csv has 1 row\(s\) with an empty label: line 2"):
        of_table(tmp_path / "list.csv", listed, test=str(file))
    with pytest.raises(
        DataError, match=r"data\.target\.test=/none\.csv is absent; set data\.targe"
    ):
        of_table(tmp_path / "list.csv", listed, test="/none.csv")


# -- texts and vectors -------------------------------------------------------------------------
def text_settings(root: Path, **changed: Any) -> dict[str, Any]:
    images = file_settings(root, val_fraction=0.25, test_fraction=0.25, **changed)
    left_out = ("augment", "mixup_alpha", "cutmix_alpha", "on_error", "max_value")
    texts = {key: value for key, value in images.items() if key not in left_out}
    return {**texts, "too_long": "truncate", "bucket": 1}


def write_texts(folder: Path, number: int = 8, words: str = "text") -> Path:
    folder.mkdir(parents=True)
    for index in range(number):
        (folder / f"{index}.txt").write_text(f"{words} {index} of {folder.name}")
    return folder


def texts(root: Path) -> Path:
    for label in ("neg", "pos"):
        write_texts(root / label)
    return root


def test_folder_of_texts_without_labels(tmp_path) -> None:
    texts(tmp_path / "mails")
    write_texts(tmp_path / "posts")
    for label in ("neg", "pos"):
        write_texts(tmp_path / "test" / label, 2, "other")
    node = {"root": str(tmp_path / "posts")}
    data = TextFoldersDataModule(**text_settings(tmp_path / "mails", target=node))
    data.discover()
    target = data.found["target"]
    assert (has_labels(target), sizes(target)) == ([], (6, 2, 8))
    assert "has no class folders: 8 texts without labels" in target.note
    node["test"] = str(tmp_path / "test")
    data = TextFoldersDataModule(**text_settings(tmp_path / "mails", target=node))
    data.discover()
    assert sizes(data.found["target"]) == (6, 2, 4)
    (tmp_path / "linked").mkdir()
    for label in ("neg", "pos"):
        (tmp_path / "linked" / label).mkdir()
        (tmp_path / "linked" / label / "0.txt").symlink_to(tmp_path / "posts" / "0.txt")
    node["test"] = str(tmp_path / "linked")
    with pytest.raises(DataError, match=r"target's training texts and data\.target\.test=.* both"):
        TextFoldersDataModule(**text_settings(tmp_path / "mails", target=node)).discover()


def test_domain_of_texts_without_labels(tmp_path) -> None:
    texts(tmp_path / "set" / "books")
    write_texts(tmp_path / "set" / "music")
    given = {"source": {"domain": "books"}, "target": {"domain": "music"}}
    data = TextDomainsDataModule(**text_settings(tmp_path / "set", **given))
    data.discover()
    assert (has_labels(data.found["target"]), sizes(data.found["target"])) == ([], (6, 2, 8))


def test_rows_of_texts_without_labels(tmp_path) -> None:
    listed = [
        [f"text {n} of {domain}", "good" if n % 2 else "bad", domain]
        for domain in ("books", "music")
        for n in range(8)
    ]
    blank = [[text, label if domain == "books" else "", domain] for text, label, domain in listed]
    header = ["text", "label", "domain"]

    def read(rows: Any, **target: Any) -> Any:
        given = {"source": {"domain": "books"}, "target": {"domain": "music", **target}}
        data = TextTableDataModule(
            table=str(table(tmp_path / "list.csv", [header, *rows])), delimiter=None,
            columns={name: name for name in ("text", "label", "domain", "split")},
            **text_settings(tmp_path, **given),
        )  # fmt: skip
        data.discover()
        return data.found["target"]

    target = read(blank)
    assert (has_labels(target), sizes(target)) == ([], (6, 2, 8))
    assert has_labels(read(listed, labels="none")) == []
    test = table(tmp_path / "test.csv", [header, ["another text", "good", "any"]])
    target = read(blank, test=str(test))
    assert (has_labels(target), sizes(target)) == (["test"], (6, 2, 1))
    with pytest.raises(DataError, match=r"list\.csv is data\.table; set data\.target\.test=null"):
        read(blank, test=str(tmp_path / "list.csv"))
    with pytest.raises(DataError, match=r"1 row\(s\) with an empty label next to labelled rows"):
        read([*listed[:-1], blank[-1]])


def test_vectors_without_labels(tmp_path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 3)), np.arange(20) % 2

    def read(**target: Any) -> Any:
        np.savez(tmp_path / "source.npz", x=x, y=y)
        np.savez(tmp_path / "plain.npz", x=x + 1)
        np.savez(tmp_path / "known.npz", x=x + 2, y=y)
        files = {k: v if k == "labels" else str(tmp_path / v) for k, v in target.items()}
        data = VectorDataModule(
            name="v", batch_size=2, eval_batch_size=4, steps_per_epoch=None, sampling="uniform",
            target_sampling="uniform",
            num_workers=0, seed=0, pin_memory=False,
            source={"train": str(tmp_path / "source.npz")}, target=files,
            val_fraction=0.25, test_fraction=0.25, max_features=None, scale="none",
        )  # fmt: skip
        data.discover()
        return data.found["target"]

    target = read(train="plain.npz")
    assert (has_labels(target), sizes(target)) == ([], (15, 5, 20))
    assert "20 vectors without labels; 15 for training, 5 for validation, and all" in target.note
    assert has_labels(read(train="plain.npz", test="known.npz")) == ["test"]
    assert has_labels(read(train="known.npz", labels="none")) == []
    with pytest.raises(DataError, match=r"data\.target\.labels=never is not valid"):
        read(train="plain.npz", labels="never")
