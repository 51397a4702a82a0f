import hashlib
import shutil

import numpy as np
import pytest
from torchvision import datasets

from layouts import (
    SHIFT,
    archive,
    cifar_batches,
    class_folders,
    file_settings,
    real_data,
    served,
    split_folders,
)
from tl_lightning.config.compose import compose
from tl_lightning.config.validation import check as validation
from tl_lightning.data.datamodules.cifar import CIFARDataModule
from tl_lightning.errors import DataError

TEN = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def cifar(root, variant="cifar10", **kwargs):
    settings = {"name": variant, "variant": variant, "download": False, "augment": "none", **kwargs}
    return CIFARDataModule(**file_settings(root, **settings))


def found(*args, **kwargs):
    return dict(cifar(*args, **kwargs).domains())


def sizes(domain):
    return len(domain.train), len(domain.val), len(domain.test)


@pytest.mark.parametrize("inside", ["", "cifar10", "CIFAR10"])
def test_class_folders_are_read(tmp_path, inside):
    split_folders(tmp_path / inside, classes=TEN)
    (source,) = found(tmp_path).values()
    assert (source.name, source.classes) == ("cifar10", TEN)
    assert sizes(source) == (60, 20, 40)
    assert source.note == ""
    for name, label in zip(source.test.names, source.test.labels, strict=True):
        assert name.split("/")[1] == TEN[label]


@pytest.mark.parametrize("inside", ["", "cifar10", "cifar10/cifar-10-batches-py"])
def test_official_batches_are_read(tmp_path, monkeypatch, inside):
    parent = "" if inside.endswith("py") else inside
    folder = cifar_batches(tmp_path / "x" / parent, datasets.CIFAR10, monkeypatch)
    root = folder if inside.endswith("py") else tmp_path / "x"
    (source,) = found(root).values()
    assert source.classes == tuple(f"class_{label:02d}" for label in range(10))
    assert sizes(source) == (220, 80, 60)
    assert source.train.samples.shape == (220, 32, 32, 3)
    assert source.train.samples.dtype == np.uint8
    names = [name for split in source.splits().values() for name in split.names]
    assert len(set(names)) == 360
    for split in source.splits().values():
        for name, label in zip(split.names, split.labels, strict=True):
            assert name.split("/")[1] == source.classes[label]
    # Names match the images, and rows come before columns.
    given = datasets.CIFAR10(str(folder.parent), train=False)
    index = int(source.test.names[7].split("/")[2])
    assert np.array_equal(source.test.samples[7], np.asarray(given[index][0]))


def test_cifar100_batches_are_read(tmp_path, monkeypatch):
    cifar_batches(tmp_path, datasets.CIFAR100, monkeypatch)
    (source,) = found(tmp_path, "cifar100").values()
    assert len(source.classes) == 100
    assert sizes(source) == (400, 200, 600)


def test_class_subset_with_few_shot_target_in_memory(tmp_path, monkeypatch):
    cifar_batches(tmp_path / "a", datasets.CIFAR10, monkeypatch)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    chosen = ["class_07", "class_02"]
    target = {"root": str(tmp_path / "b"), "labelled_per_class": 3}
    both = found(tmp_path / "a", classes=chosen, target=target, transductive=True)
    assert both["source"].classes == ("class_07", "class_02")
    assert sizes(both["source"]) == (44, 16, 12)
    domain = both["target"]
    assert np.bincount(domain.labelled.labels).tolist() == [3, 3]
    assert len(domain.train) == len(domain.test) == 72 - 6
    assert domain.train.samples.shape == (66, 32, 32, 3)


def test_synthetic_shift_is_applied_in_memory(tmp_path, monkeypatch):
    cifar_batches(tmp_path, datasets.CIFAR10, monkeypatch)
    both = found(tmp_path, target={"root": None, "shift": SHIFT})
    source, target = both["source"], both["target"]
    assert target.note.startswith("synthetic shift: ")
    assert not set(source.train.names) & set(target.train.names)
    assert source.test.names == target.test.names
    assert target.test.change is None  # Applied to the pixels already.
    ratio = target.test.samples.mean() / source.test.samples.mean()
    assert ratio == pytest.approx(0.5, abs=0.02)


def test_target_in_class_folders(tmp_path):
    split_folders(tmp_path / "a", classes=TEN)
    split_folders(tmp_path / "b", classes=TEN[::-1], val=1)
    both = found(tmp_path / "a", target={"root": str(tmp_path / "b")})
    assert (both["target"].name, both["target"].classes) == ("b", TEN)


def test_same_batches_as_source_and_target_are_an_error(tmp_path, monkeypatch):
    cifar_batches(tmp_path, datasets.CIFAR10, monkeypatch)
    message = r"both use .*/cifar-10-batches-py; set another data\.target\.root, or"
    with pytest.raises(DataError, match=message):
        found(tmp_path, target={"root": str(tmp_path)})


def test_batch_with_wrong_checksum_is_not_unpickled(tmp_path, monkeypatch):
    folder = cifar_batches(tmp_path, datasets.CIFAR10, monkeypatch)
    monkeypatch.setattr("pickle.load", lambda *args, **kwargs: pytest.fail("unpickled"))
    (folder / "test_batch").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    message = r"a batch in .* is missing or has a wrong checksum; remove .*data\.download=true"
    with pytest.raises(DataError, match=message):
        found(tmp_path)


def test_missing_dataset_and_wrong_classes_are_errors(tmp_path):
    message = (
        r"CIFAR10 \(\{train,test\}/<class>/\*, or cifar-10-batches-py/\) not found with "
        r"data\.root=.*; set data\.root=/the/right/folder, or data\.download=true to fetch 170 MB"
    )
    with pytest.raises(DataError, match=message):
        found(tmp_path)
    split_folders(tmp_path, classes=TEN[:3])
    with pytest.raises(DataError, match=r"has 3 classes, but CIFAR10 has 10; fix the folder, set"):
        found(tmp_path)
    message = (
        r"not found with data\.target\.root=/nowhere; tried: .*; set data\.target\.root=[^,]*$"
    )
    tolerant = cifar(tmp_path, target={"root": "/nowhere"})
    tolerant.collect_problems(lambda problem: None)
    with pytest.raises(DataError, match=message):
        tolerant.domains()


def test_archive_is_downloaded_once(tmp_path, monkeypatch):
    official = datasets.CIFAR10
    folder = cifar_batches(tmp_path / "away", official, monkeypatch, number=2)
    content = archive(folder)
    monkeypatch.setattr(official, "tgz_md5", hashlib.md5(content).hexdigest())
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with served({official.filename: content}) as address:
        monkeypatch.setattr(official, "url", f"{address}/{official.filename}")
        (source,) = found(tmp_path / "here", download=True).values()
        assert sizes(source) == (70, 30, 20)
        assert (tmp_path / "here" / "cifar-10-batches-py" / "test_batch").is_file()
        monkeypatch.setattr(official, "tgz_md5", "00")
        with pytest.raises(
            DataError, match=r"not the expected file: md5 .*another mirror of CIFAR10"
        ):
            found(tmp_path / "there", download=True)
    assert len(found(tmp_path / "here", download=True)) == 1  # The server is down.


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_configuration_builds_the_data_module(tmp_path, name):
    classes = TEN if name == "cifar10" else [f"class {label:02d}" for label in range(100)]
    for split, number, start in (("train", 3, 0), ("test", 1, 3)):
        class_folders(tmp_path / name / split, number, classes, start)
    given = [f"data={name}", f"data.root={tmp_path}", "data.batch_size=4", "model=fine_tuning"]
    data = validation.check(compose(given)).data.build()
    data.discover()
    assert data.classes == tuple(classes)
    assert set(data.found) == {"source"}


@pytest.mark.real
def test_real_cifar10_counts():
    real_data("cifar10")
    (source,) = found(real_data(), val_fraction=0.1).values()
    assert source.classes == TEN
    assert sizes(source) == (9000, 1000, 2000)
    assert len(set(source.paths())) == 12000
