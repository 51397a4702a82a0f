"""Resuming compares the classes, the model and the data with those of the checkpoint."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from helpers import config, file_config
from layouts import BREEDS, class_folders, image
from tl_lightning.errors import CheckpointError, ConfigError
from tl_lightning.training import fit as training

FOLDER = ("data=folder", "model=source_only", "resume=auto", "data.steps_per_epoch=null")


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """Return a folder with images, and a run of one epoch on them."""
    folder = tmp_path_factory.mktemp("begun")
    class_folders(folder / "images", 20)
    training.fit(file_config(folder / "images", *FOLDER, "trainer.max_epochs=1"), folder / "run")
    return folder


@pytest.fixture
def copy(begun, tmp_path) -> Path:
    """Return a copy of both."""
    return Path(shutil.copytree(begun, tmp_path / "copy"))


def resumed(folder: Path):
    return training.fit(file_config(folder / "images", *FOLDER), folder / "run")


def rename(images: Path) -> None:
    (images / BREEDS[0]).rename(images / "zebra")


def remove(images: Path) -> None:
    shutil.rmtree(images / BREEDS[1])


def add(images: Path) -> None:
    class_folders(images, 20, ["bee"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename, "removed n02085620-Chihuahua, added zebra; restore the classes of the data"),
        (remove, "removed n02085782-Japanese_spaniel; restore"),
        (add, "added bee; restore"),
    ],
)
def test_other_classes_are_refused(copy, change, message) -> None:
    before = (copy / "run" / "checkpoints" / "last.ckpt").read_bytes()
    change(copy / "images")
    with pytest.raises(CheckpointError, match=f"trained with other classes: {message}"):
        resumed(copy)
    assert (copy / "run" / "checkpoints" / "last.ckpt").read_bytes() == before


def test_classes_in_another_order_are_refused(begun, tmp_path, monkeypatch) -> None:
    """Of a data module whose order is not given by the names."""
    from tl_lightning.data.datamodules.base import TransferDataModule

    order = property(lambda self: tuple(reversed(self.found["source"].classes)))
    monkeypatch.setattr(TransferDataModule, "classes", order)
    with pytest.raises(CheckpointError, match=r"in the order n02085620.*, now n02085936"):
        resumed(begun)


def smaller(images: Path) -> None:
    next(images.glob("*/*_1.jpg")).unlink()


def larger(images: Path) -> None:
    image(images / BREEDS[0] / "new.jpg", 99)


def replaced(images: Path) -> None:
    image(images / BREEDS[0] / "n02085620_3.jpg", 99, (25, 25))


def same_size(images: Path) -> None:
    """Replace the bytes of an image, but neither its size nor its time."""
    file = images / BREEDS[0] / "n02085620_3.jpg"
    before = file.stat()
    file.write_bytes(file.read_bytes()[:-20] + bytes(18) + b"\xff\xd9")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size


@pytest.mark.slow
@pytest.mark.filterwarnings("default:the data have changed:UserWarning")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (smaller, r"written: source/\w+ \d+, now \d+; the run continues"),
        (larger, r"written: source/\w+ \d+, now \d+; the run continues"),
        (replaced, "equal numbers, but other names, contents or labels of samples"),
        (same_size, "equal numbers, but other names, contents or labels of samples"),
    ],
)
def test_other_samples_are_told(copy, change, message) -> None:
    change(copy / "images")
    found = [text for text in resumed(copy)["warnings"] if "data have changed" in text]
    assert len(found) == 1
    assert re.search(message, found[0])


def test_other_batches_per_epoch_are_refused(copy) -> None:
    class_folders(copy / "images", 40, start=20)
    message = (
        r"an epoch had \d+ batches and has \d+ now.*; set data.steps_per_epoch=\d+ and resume="
    )
    with pytest.raises(CheckpointError, match=message):
        resumed(copy)


def test_fewer_epochs_than_begun_are_refused(begun, tmp_path) -> None:
    two = [*FOLDER, "trainer.max_epochs=2"]
    training.fit(file_config(begun / "images", *two), tmp_path / "two")
    where = f"resume={tmp_path / 'two'}"
    one = file_config(begun / "images", *FOLDER, "trainer.max_epochs=1", where)
    message = r"was written in epoch 2, but trainer.max_epochs=1; set trainer.max_epochs=2 or more"
    with pytest.raises(CheckpointError, match=message):
        training.fit(one, tmp_path / "one")


@pytest.mark.slow
def test_a_run_of_a_number_of_steps_is_resumed(tmp_path) -> None:
    steps = ["trainer.max_epochs=-1", "trainer.max_steps=2", "scheduler=constant", "resume=auto"]
    for number in ("2", "3"):
        steps[1] = f"trainer.max_steps={number}"
        report = training.fit(config("model=source_only", *steps), tmp_path)
    assert (report["timing"]["from_step"], report["timing"]["steps"]) == (2, 3)


@pytest.mark.slow
def test_unchanged_data_are_not_mentioned(copy) -> None:
    assert not [text for text in resumed(copy)["warnings"] if "data have changed" in text]


MODELS = {
    "backbone.widths=[4,4]": r"backbone\.\S+ has the shape \[8.*now has the shape \[4.*widths",
    "backbone.widths=[4]": r"now is absent \(backbone.widths",
    "model=dann": r"methods\.dann\.\S+ is absent, now has the shape",
    "optimizer=sgd": r"its optimizer is torch.optim.Adam\w*, now torch.optim.SGD",
    "layer_decay=0.5": r"its optimizer has the parameter groups backbone, head, now backbone\.",
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """Return a run on digits."""
    folder = tmp_path_factory.mktemp("plain")
    training.fit(config("model=source_only", "trainer.max_epochs=1"), folder)
    return folder


@pytest.mark.filterwarnings("default:.*different settings:UserWarning")
@pytest.mark.parametrize("changed", MODELS)
def test_another_model_is_one_error(plain, tmp_path, changed) -> None:
    settings = config("model=source_only", changed, f"resume={plain}")
    with pytest.raises(CheckpointError, match=f"another model than this run: .*{MODELS[changed]}"):
        training.fit(settings, tmp_path)


@pytest.mark.slow
def test_resume_of_a_folder_that_is_no_run(tmp_path) -> None:
    with pytest.raises((CheckpointError, ConfigError), match="nothing to resume at resume="):
        training.fit(config(f"resume={tmp_path}"), tmp_path / "run")
