import numpy as np
import pytest

from helpers import REPO
from layouts import BREEDS, SHIFT, class_folders, domain_folders, file_settings, split_folders
from tl_lightning.config.compose import compose
from tl_lightning.config.validation import check as validation
from tl_lightning.data.datamodules.class_folders import ClassFoldersDataModule
from tl_lightning.data.layout import read_layout
from tl_lightning.errors import ConfigError, DataError

NOTHING = {"root": None, "domain": None, "labelled_per_class": 0, "shift": None}


def found(root, **kwargs):
    data = ClassFoldersDataModule(**file_settings(root, **kwargs))
    data.discover()
    return data.found


def sizes(domain):
    return len(domain.train), len(domain.val), len(domain.test)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", sorted(p.stem for p in (REPO / "conf" / "data").glob("[!_]*.yaml"))
)
def test_every_dataset_has_a_valid_configuration(name):
    run = validation.check(compose([f"data={name}", "model=source_only"]))
    assert run.data.target.startswith("tl_lightning.data.")
    recipes = {path.stem for path in (REPO / "conf" / "recipe").iterdir()}
    assert recipes <= {path.stem for path in (REPO / "conf" / "data").glob("[!_]*.yaml")}


@pytest.mark.parametrize("level", ["root", "class", "file"])
def test_target_that_is_a_link_to_the_source_is_an_error(tmp_path, level):
    source, target = class_folders(tmp_path / "a", 10), tmp_path / "b"
    if level == "root":
        target.symlink_to(source)
    else:
        class_folders(target, 10, start=10)
        first = source / BREEDS[0]
        (target / BREEDS[0]).rename(tmp_path / "kept")
        if level == "class":
            (target / BREEDS[0]).symlink_to(first)
        else:
            (tmp_path / "kept").rename(target / BREEDS[0])
            (target / BREEDS[0] / "x.jpg").symlink_to(next(first.iterdir()))
    number = {"root": 29, "class": 9, "file": 0}[level]
    message = rf"data\.source and data\.target both contain .*/b/.* \(and {number} more images\);"
    with pytest.raises(DataError, match=message):
        found(source, target={**NOTHING, "root": str(target)})


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("Training", "dev", "Testing"),
        ("TRAIN", "Valid", "Test"),
        ("train", "validation", "testing"),
    ],
)
def test_names_of_splits(tmp_path, train, val, test):
    split_folders(tmp_path, val=2)
    for old, new in (("train", train), ("val", val), ("test", test)):
        (tmp_path / old).rename(tmp_path / new)
    (source,) = found(tmp_path).values()
    assert sizes(source) == (24, 6, 12)
    assert {name.split("/")[0] for name in source.test.names} == {test}


def test_single_folder_is_split_by_hash(tmp_path):
    (source,) = found(class_folders(tmp_path / "mine", 10), target=NOTHING).values()
    assert (source.name, source.classes) == ("mine", BREEDS)
    assert sizes(source) == (12, 6, 12)
    assert source.note.startswith("no official split was found: 40% of every class")
    names = [*source.train.names, *source.val.names, *source.test.names]
    assert len(set(names)) == 30
    for split in (source.train, source.val, source.test):
        for name, label in zip(split.names, split.labels, strict=True):
            assert name.split("/")[0] == BREEDS[label]


def test_classes_of_two_folders_are_matched_by_name(tmp_path):
    class_folders(tmp_path / "a", 10)
    split_folders(tmp_path / "b", val=2, classes=BREEDS[::-1])
    both = found(tmp_path / "a", target={**NOTHING, "root": str(tmp_path / "b")})
    assert both["target"].name == "b"
    assert sizes(both["target"]) == (24, 6, 12)
    for name, label in zip(both["target"].val.names, both["target"].val.labels, strict=True):
        assert name.split("/")[1] == BREEDS[label]


def test_target_keys_are_optional(tmp_path):
    class_folders(tmp_path / "a", 10)
    class_folders(tmp_path / "b", 10)
    both = found(tmp_path / "a", source={}, target={"root": str(tmp_path / "b")})
    assert sizes(both["target"]) == (12, 6, 12)


def test_source_root_overrides_root(tmp_path):
    class_folders(tmp_path / "a", 10)
    assert found("/nowhere", source={"root": str(tmp_path / "a")})["source"].name == "a"


def test_subset_of_classes_keeps_the_given_order(tmp_path):
    class_folders(tmp_path, 10)
    (source,) = found(tmp_path, classes=[BREEDS[2], BREEDS[0]]).values()
    assert source.classes == (BREEDS[2], BREEDS[0])
    assert sizes(source) == (8, 4, 8)


def test_few_shot_target_samples_are_removed_from_training(tmp_path):
    class_folders(tmp_path / "a", 10)
    class_folders(tmp_path / "b", 10)
    target = {"root": str(tmp_path / "b"), "labelled_per_class": 2}
    domain = found(tmp_path / "a", target=target)["target"]
    assert np.bincount(domain.labelled.labels).tolist() == [2, 2, 2]
    assert sizes(domain) == (6, 6, 12)
    assert not set(domain.labelled.names) & set(domain.train.names)
    assert domain.note.startswith("2 few-shot target sample(s) per class, trained with their lab")


def test_transductive_target_uses_all_samples(tmp_path):
    class_folders(tmp_path / "a", 10)
    split_folders(tmp_path / "b")
    domain = found(tmp_path / "a", target={"root": str(tmp_path / "b")}, transductive=True)[
        "target"
    ]
    assert len(domain.train) == len(domain.test) == 36
    assert domain.note.startswith("transductive: ")


def test_synthetic_target(tmp_path):
    both = found(class_folders(tmp_path, 10), target={**NOTHING, "shift": SHIFT})
    assert both["target"].note.startswith("synthetic shift: ")
    assert both["target"].train.change.brightness == 0.5


def test_few_shot_without_target_is_an_error(tmp_path):
    class_folders(tmp_path, 10)
    with pytest.raises(DataError, match=r"data\.target\.root and data\.target\.shift are both nul"):
        found(tmp_path, target={**NOTHING, "labelled_per_class": 2})


def test_folder_without_classes_is_an_error(tmp_path):
    message = (
        r"a folder of class folders \(<class>/\*\.jpg, or \{train,val,test\}/<class>/\*\.jpg\) not "
        rf"found with data\.root={tmp_path}; tried: {tmp_path} \(other files\); set data\.root=/"
    )
    with pytest.raises(DataError, match=message):
        found(tmp_path)
    class_folders(tmp_path / "a", 10)
    with pytest.raises(DataError, match=r"not found with data\.target\.root=/nowhere"):
        found(tmp_path / "a", target={"root": "/nowhere"})


def test_folder_of_domains_is_an_error(tmp_path):
    domain_folders(tmp_path / "set")
    message = (
        r"/set contains domains instead of classes: art_painting, photo, sketch; set "
        r"data=domains data\.source\.domain=art_painting, or data\.root=.*/set/art_painting$"
    )
    with pytest.raises(DataError, match=message):
        found(tmp_path / "set")
    class_folders(tmp_path / "a", 10, ("dog", "horse", "house"))
    with pytest.raises(DataError, match=r"or data\.target\.root=.*/set/art_painting$"):
        found(tmp_path / "a", target={"root": str(tmp_path / "set")})


def test_domain_setting_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"data\.source\.domain=photo, but data=tiny has one domai"):
        found(tmp_path, source={"domain": "photo"})


@pytest.mark.slow
def test_target_without_values_means_no_target(tmp_path):
    run = validation.check(compose(["data=folder", "model=fine_tuning", "data.root=/x"]))
    assert run.target is run.plain["data"]["target"] is None
    with pytest.raises(ConfigError, match=r"data\.target\.root=<folder>, or set model=source_only"):
        validation.check(compose(["data=folder", "model=dann"]))
    for override in ("data.target.root=/x", "data.target={root:/x}"):
        run = validation.check(compose(["data=folder", "model=dann", override]))
        assert run.target["root"] == run.plain["data"]["target"]["root"] == "/x"


@pytest.mark.parametrize("name", ["valid", "validation"])
def test_alternative_names_of_the_validation_folder(tmp_path, name):
    split_folders(tmp_path, val=2)
    (tmp_path / "val").rename(tmp_path / name)
    assert len(read_layout(tmp_path).val) == 6


def test_several_validation_folders_are_an_error(tmp_path):
    split_folders(tmp_path, val=2)
    class_folders(tmp_path / "valid", 1)
    with pytest.raises(DataError, match=r"has several folders of the split val: val and valid; k"):
        read_layout(tmp_path)


def test_class_may_be_named_train(tmp_path):
    layout = read_layout(class_folders(tmp_path, 3, ("bus", "train", "truck")))
    assert layout.classes == ("bus", "train", "truck")
    assert len(layout.train) == 9


def test_images_directly_in_train_are_an_error(tmp_path):
    class_folders(tmp_path, 3, ("train", "test"))
    with pytest.raises(DataError, match=r"/train contains no class folders; expected "):
        read_layout(tmp_path)
