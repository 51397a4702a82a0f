"""Datasets of files and arrays."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import config
from tl_lightning.config.validation import check as validation
from tl_lightning.data.datasets import (
    ArrayDataset,
    EvalDataset,
    ImageDataset,
    SplitReader,
    collate,
    resize_pixels,
)
from tl_lightning.data.domain import Split
from tl_lightning.data.io.images import open_image
from tl_lightning.data.transforms.presets import augmentation
from tl_lightning.errors import DataError
from tl_lightning.evaluation import evaluate as evaluation
from tl_lightning.training import fit as training
from tl_lightning.types import InputSpec

SPEC = InputSpec(16, (0.5,) * 3, (0.5,) * 3)


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for i in range(5):
        path = tmp_path / f"{i}.png"
        Image.fromarray(rng.integers(0, 255, (30 + i, 40, 3), dtype=np.uint8)).save(path)
        paths.append(path)
    return Split(paths, np.arange(5), [p.name for p in paths])


def files(split, augment):
    geometry = augmentation(SPEC, augment).geometry
    return ImageDataset(split, SplitReader(split, None, SPEC), geometry, SPEC.size)


def test_augmentation_depends_only_on_the_seed_of_the_sample(images) -> None:
    data = files(images, "randaugment")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    a, b = data[(0, 7)], data[(0, 7)]
    other = data[(0, 8)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a["inputs"], b["inputs"])
    assert not torch.equal(a["inputs"], other["inputs"])
    assert a["inputs"].dtype == torch.uint8
    assert a["inputs"].shape == (3, 16, 16)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_do_not_depend_on_the_number_of_workers(images, workers) -> None:
    from torch.utils.data import DataLoader

    from tl_lightning.data.samplers.domain import DomainSampler

    data = files(images, "light")
    order = DomainSampler(size=5, batch_size=2, num_batches=3, seed=0, domain=0)
    loader = DataLoader(data, batch_size=2, sampler=order, num_workers=workers, collate_fn=collate)
    got = [(batch["index"].tolist(), int(batch["inputs"].sum())) for batch in loader]
    samples = [data[key] for key in order]
    expected = [
        ([x["index"] for x in pair], int(sum(x["inputs"].long().sum() for x in pair)))
        for pair in zip(samples[::2], samples[1::2], strict=True)
    ]
    assert got == expected


def test_without_labels_removes_labels(images) -> None:
    data = files(images.without_labels(), "none")
    assert "labels" not in data[(0, 0)]


def test_unreadable_image_is_named(tmp_path) -> None:
    path = tmp_path / "notes.jpg"
    path.write_text("no image")
    with pytest.raises(DataError, match=r"cannot read image .*notes\.jpg.*fix or remove"):
        open_image(path)
    with pytest.raises(DataError, match=r"gone\.jpg has disappeared since the run started"):
        open_image(tmp_path / "gone.jpg")


def test_truncated_image_is_named(tmp_path) -> None:
    path = tmp_path / "half.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(
        path
    )
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match=r"half\.jpg"):
        open_image(path)


def test_array_batches_equal_single_samples() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (6, 16, 16, 3), dtype=np.uint8)
    data = ArrayDataset(Split(pixels, np.arange(6), list("abcdef")))
    batch = data.__getitems__([(4, 0), (1, 0)])
    assert torch.equal(batch["inputs"][1], data[(1, 0)]["inputs"])
    assert batch["labels"].tolist() == [4, 1]
    assert batch["inputs"][0, :, 2, 3].tolist() == pixels[4, 2, 3].tolist()


def test_padding_samples_are_marked() -> None:
    pixels = np.zeros((3, 4, 4, 3), dtype=np.uint8)
    data = EvalDataset(ArrayDataset(Split(pixels, np.arange(3), list("abc"))))
    assert data.__getitems__([(2, 1), (2, 0)])["index"].tolist() == [2, -1]


def test_resizing_pixels_keeps_uniform_colour() -> None:
    uniform = np.full((2, 8, 8, 3), 77, dtype=np.uint8)
    out = resize_pixels(uniform, SPEC)
    assert out.shape == (2, 16, 16, 3)
    assert (out == 77).all()
    assert resize_pixels(out, SPEC) is out


def test_target_batches_have_no_labels_in_training_and_validation(tmp_path) -> None:
    cfg = validation.check(config())
    parts = training.build(cfg, tmp_path)
    parts.trainer.strategy._lightning_module = parts.module
    parts.data.trainer = parts.trainer
    train = parts.data.train_dataloader()
    assert "labels" in next(iter(train["source"]))
    assert "labels" not in next(iter(train["target"]))
    source, target = parts.data.val_dataloader()
    assert "labels" in next(iter(source))
    assert "labels" not in next(iter(target))


@pytest.mark.slow
def test_batches_are_not_larger_than_a_domain(tmp_path) -> None:
    report = training.fit(config("data.batch_size=5000", "data.steps_per_epoch=1"), tmp_path)
    least = min(report["dataset"]["counts"][f"{name}/train"] for name in ("source", "target"))
    assert report["scale"]["batch_size"] == least
    notes = [note for note in report["notes"] if "fewer than data.batch_size=5000" in note]
    assert len(notes) == 1
    assert f"batches of {least} were used" in notes[0]


def test_classes_that_differ_from_the_checkpoint_are_refused(tmp_path, monkeypatch) -> None:
    from tl_lightning.data.datamodules.digits import DigitsDataModule
    from tl_lightning.errors import ConfigError

    report = training.fit(config("trainer.max_epochs=1"), tmp_path)
    monkeypatch.setattr(DigitsDataModule, "classes", tuple("abcdefghij"))
    with pytest.raises(
        ConfigError,
        match=r"trained on the classes 0, 1, .* 5 more, but .* has a, b, .* 5 more; use",
    ):
        evaluation.evaluate(tmp_path / report["selection"]["checkpoint"], None, None)


@pytest.mark.slow
def test_loader_processes_need_not_import_lightning() -> None:
    """Its import takes seconds in every spawned process."""
    code = "import sys, tl_lightning.data.datasets, tl_lightning.data.streaming.shards; "
    code += "sys.exit('lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
