import hashlib

import pytest

from layouts import (
    BREEDS_OF_PETS,
    SHIFT,
    archive,
    class_folders,
    file_settings,
    image,
    pets,
    served,
    split_folders,
)
from tl_lightning.config.compose import compose
from tl_lightning.config.validation import check as validation
from tl_lightning.data.datamodules import oxford_pets as module
from tl_lightning.data.datamodules.oxford_pets import OxfordPetsDataModule, read_pets
from tl_lightning.errors import DataError


def found(root, **kwargs):
    data = OxfordPetsDataModule(
        **file_settings(root, **{"name": "pets", "download": False, **kwargs})
    )
    data.discover()
    return data.found


def sizes(domain):
    return len(domain.train), len(domain.val), len(domain.test)


@pytest.mark.parametrize("inside", ["", "pets", "oxford-iiit-pet"])
def test_official_split_is_used(tmp_path, inside):
    pets(tmp_path / inside)
    (source,) = found(tmp_path).values()
    assert (source.name, source.classes) == ("pets", BREEDS_OF_PETS)
    assert sizes(source) == (18, 6, 12)
    assert source.note == ""
    for split in source.splits().values():
        for path, label in zip(split.samples, split.labels, strict=True):
            assert path.name.startswith(source.classes[label] + "_")
    numbers = {int(path.stem.rpartition("_")[2]) for path in source.test.samples}
    assert numbers == {9, 10, 11, 12}
    assert len(set(source.paths())) == 36


def test_other_layouts_are_read(tmp_path):
    pets(tmp_path / "a", lists=False)
    (source,) = found(tmp_path / "a").values()
    assert sizes(source) == (15, 6, 15)
    assert source.note.startswith("no official split was found")
    split_folders(tmp_path / "b", val=2, classes=BREEDS_OF_PETS)
    assert sizes(found(tmp_path / "b")["source"]) == (24, 6, 12)


def test_folder_and_synthetic_targets(tmp_path):
    pets(tmp_path / "a")
    class_folders(tmp_path / "mine", 10, BREEDS_OF_PETS[::-1])
    target = {"root": str(tmp_path / "mine"), "labelled_per_class": 2}
    both = found(tmp_path / "a", target=target)
    assert (both["target"].name, both["target"].classes) == ("mine", BREEDS_OF_PETS)
    assert len(both["target"].labelled) == 6
    both = found(tmp_path / "a", target=target, transductive=True, classes=BREEDS_OF_PETS[:2])
    assert len(both["target"].test) == 16
    both = found(tmp_path / "a", target={"shift": SHIFT})
    assert both["target"].note.startswith("synthetic shift")
    message = r"or <class>/\*\.jpg\) not found with data\.target\.root=/nowhere"
    with pytest.raises(DataError, match=message):
        found(tmp_path / "a", target={"root": "/nowhere"})


def test_missing_dataset_is_an_error(tmp_path):
    message = (
        r"Oxford-IIIT Pet \(images/.*not found with data\.root=.*/OxfordIIITPet \(absent\); set "
        r"data\.root=/the/right/folder, or data\.download=true to fetch 811 MB"
    )
    with pytest.raises(DataError, match=message):
        found(tmp_path)


def test_inconsistent_lists_and_images_are_reported(tmp_path):
    pets(tmp_path)
    (tmp_path / "images" / "Abyssinian_3.jpg").unlink()
    image(tmp_path / "images" / "holiday.jpg", 0)
    test = tmp_path / "annotations" / "test.txt"
    test.write_text(test.read_text() + "Abyssinian_1 1 1 1\n")
    problems = []
    layout = read_pets(tmp_path, on_problem=problems.append)
    assert (len(layout.train), len(layout.test)) == (23, 12)
    misnamed, absent, both = problems
    assert "1 of 36 images in" in misnamed
    assert "are not named <Breed>_<number>: holiday.jpg; rename or remove them" in misnamed
    assert "1 of 24 images listed in" in absent
    assert "trainval.txt are missing from" in absent
    assert "images: Abyssinian_3; extract images.tar.gz again, remove annotations/ to" in absent
    assert "test.txt are also in trainval.txt: Abyssinian_1; remove them from one of" in both
    with pytest.raises(DataError, match=r"are not named <Breed>_<number>: holiday\.jpg"):
        found(tmp_path)


def test_invalid_list_is_an_error(tmp_path):
    pets(tmp_path)
    test = tmp_path / "annotations" / "test.txt"
    test.write_text("# A comment\n\nAbyssinian_9 1 1 1\nAbyssinian_10 1\n")
    message = (
        r"line 4 of the list .*test\.txt is 'Abyssinian_10 1', not <Breed>_<number> followed by"
    )
    with pytest.raises(DataError, match=message):
        found(tmp_path)
    test.write_bytes(b"\xff\xfe")
    with pytest.raises(
        DataError, match=r"cannot read the list .*test\.txt: .*; extract annotations"
    ):
        found(tmp_path)
    test.unlink()
    with pytest.raises(
        DataError, match=r"test\.txt is missing, but the other list exists; extract"
    ):
        found(tmp_path)


def test_archives_are_downloaded_once(tmp_path, monkeypatch):
    pets(tmp_path / "away")
    files = {
        f"{name}.tar.gz": archive(tmp_path / "away" / name) for name in ("annotations", "images")
    }
    sums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    assert list(module.ARCHIVES) == list(files)
    monkeypatch.setattr(module, "ARCHIVES", sums)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with served(files) as address:
        monkeypatch.setattr(module, "URL", address)
        (source,) = found(tmp_path / "here", download=True).values()
    assert sizes(source) == (18, 6, 12)
    assert len(found(tmp_path / "here", download=True)) == 1  # The server is down.
    assert (tmp_path / "here" / "oxford-iiit-pet" / "images").is_dir()


def test_checksums_equal_those_of_torchvision():
    from torchvision.datasets import OxfordIIITPet

    official = {url.rpartition("/")[2]: md5 for url, md5 in OxfordIIITPet._RESOURCES}
    assert official == module.ARCHIVES


def test_configuration_builds_the_data_module(tmp_path):
    pets(tmp_path)
    given = ["data=pets", f"data.root={tmp_path}", "data.batch_size=4", "model=fine_tuning"]
    data = validation.check(compose(given)).data.build()
    data.discover()
    assert set(data.found) == {"source"}
