import numpy as np
import pytest

from layouts import BREEDS, class_folders, image, real_data, split_folders
from tl_lightning.data.layout import read_layout
from tl_lightning.errors import DataError


def test_split_folders_are_read(tmp_path):
    layout = read_layout(split_folders(tmp_path, train=8, test=4, val=2))
    assert layout.classes == BREEDS
    assert layout.val is not None
    assert layout.test is not None
    assert [len(split) for split in (layout.train, layout.val, layout.test)] == [24, 6, 12]
    assert layout.train.names[0] == f"train/{BREEDS[0]}/n02085620_0.jpg"
    assert sorted(layout.paths()) == sorted(tmp_path.rglob("*.jpg"))
    assert layout.with_test(0.5).with_val(0.5) == layout


def test_class_folders_are_split_by_hash(tmp_path):
    layout = read_layout(class_folders(tmp_path, 10))
    layout = layout.with_test(0.4).with_val(0.1)
    train, val, test, note = layout.train, layout.val, layout.test, layout.note
    assert [np.bincount(split.labels).tolist() for split in (train, val, test)] == [
        [5, 5, 5],
        [1, 1, 1],
        [4, 4, 4],
    ]
    assert len({*train.names, *val.names, *test.names}) == 30
    assert note.startswith("no official split was found: 40% of every class")


def test_halves_share_only_the_test_split(tmp_path):
    one, other = read_layout(split_folders(tmp_path, train=8, test=4, val=2)).halves()
    assert not set(one.train.names) & set(other.train.names)
    assert not set(one.val.names) & set(other.val.names)
    assert (len(one.train), len(other.train), len(one.val), len(other.val)) == (12, 12, 3, 3)
    assert one.test is other.test


def test_renumbered_labels_match_class_names(tmp_path):
    layout = read_layout(split_folders(tmp_path, val=2)).renumbered(
        BREEDS[::-1], "data.target.root"
    )
    for split in (layout.train, layout.val, layout.test):
        for name, label in zip(split.names, split.labels, strict=True):
            assert name.split("/")[1] == layout.classes[label]


def test_missing_class_in_the_test_folder_is_an_error(tmp_path):
    split_folders(tmp_path)
    (tmp_path / "test" / BREEDS[1]).rename(tmp_path / "gone")
    message = (
        r"classes of .*/test differ: 3 expected, 2 found; missing: n02085782-Japanese_spaniel;"
    )
    with pytest.raises(DataError, match=message):
        read_layout(tmp_path)


def test_too_few_images_for_halves_is_an_error(tmp_path):
    layout = read_layout(split_folders(tmp_path, train=1))
    message = (
        r"has only 1 sample\(s\), and none is left after holding out 1 for halves; add samples "
    )
    with pytest.raises(DataError, match=message):
        layout.halves()


def test_validation_split_is_tested_where_there_is_no_test_split(tmp_path):
    layout = read_layout(split_folders(tmp_path, train=8, test=0, val=2))
    found = layout.with_test(0.5, choice="auto")
    assert found.train is layout.train
    assert found.test is layout.val
    assert found.note == (
        "data.test_split=auto: the 6 samples of the validation split are also the test split, all "
        "24 training samples are trained on; a model selected by its validation accuracy is tested "
        "on the same samples"
    )
    held_out = layout.with_test(0.5)
    assert [len(split) for split in (held_out.train, held_out.val, held_out.test)] == [12, 6, 12]


def test_validation_split_is_tested_in_place_of_the_test_split(tmp_path):
    layout = read_layout(split_folders(tmp_path, train=8, test=4, val=2))
    assert layout.with_test(0.5, choice="auto") == layout.with_test(0.5) == layout
    found = layout.with_test(0.5, choice="val")
    assert found.test is layout.val
    assert "and the 12 in test are unused" in found.note
    assert layout.only_tested("val").test is layout.val
    bare = read_layout(class_folders(tmp_path / "flat", 4))
    with pytest.raises(DataError, match=r"but the dataset has none; add val/<class>/ next to tra"):
        bare.with_test(0.5, choice="val")


def test_folder_with_a_test_split_only(tmp_path):
    layout = read_layout(split_folders(tmp_path, train=0, test=4))
    assert layout.classes == BREEDS
    assert (len(layout.train), layout.val, len(layout.test)) == (0, None, 12)


def test_test_folder_without_class_folders_is_not_used(tmp_path):
    split_folders(tmp_path, train=8, test=0, val=2)
    for number in range(3):
        image(tmp_path / "test" / f"{number}.jpg", number)
    layout = read_layout(tmp_path)
    assert (len(layout.train), len(layout.val), layout.test) == (24, 6, None)


def test_invalid_fraction_is_an_error_that_names_its_setting(tmp_path):
    layout = read_layout(class_folders(tmp_path, 4))
    with pytest.raises(DataError, match=r"^data\.test_fraction=1\.0 is not a fraction above 0 and"):
        layout.with_test(1.0)
    with pytest.raises(DataError, match=r"; set for example data\.val_fraction=0\.1$"):
        layout.with_val(0.0)


@pytest.mark.parametrize(("number", "helps"), [(1, False), (2, True)])
def test_smaller_fraction_is_only_advised_where_it_helps(tmp_path, number, helps):
    layout = read_layout(class_folders(tmp_path, number))
    message = (
        rf"has only {number} sample\(s\), and none is left after holding out {number} for test; "
        r"add samples \(a class needs one each for training, validation and testing\), "
        + ("remove the class, or set a smaller data.test_fraction$" if helps else "or remove the c")
    )
    with pytest.raises(DataError, match=message):
        layout.with_test(0.9)


@pytest.mark.real
def test_real_dogs_are_read_completely():
    layout = read_layout(real_data("dogs"))
    assert np.bincount(layout.train.labels).tolist() == [25] * 120
    assert layout.test is not None
    assert np.bincount(layout.test.labels).tolist() == [15] * 120
