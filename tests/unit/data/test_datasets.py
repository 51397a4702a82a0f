"""From splits to samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import config
from tl_lightning.config.validation import check as validation
from tl_lightning.data.datasets import (
    ArrayDataset,
    EvalDataset,
    PictureDataset,
    SplitReader,
    collate,
    resize_pixels,
)
from tl_lightning.data.domain import Split
from tl_lightning.data.io.images import open_picture
from tl_lightning.data.transforms.presets import augmentation
from tl_lightning.errors import DataError
from tl_lightning.evaluation import evaluate as evaluation
from tl_lightning.training import fit as training
from tl_lightning.types import InputSpec

SPEC = InputSpec(16, (0.5,) * 3, (0.5,) * 3)


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for i in range(5):
        path = tmp_path / f"{i}.png"
        Image.fromarray(rng.integers(0, 255, (30 + i, 40, 3), dtype=np.uint8)).save(path)
        paths.append(path)
    return Split(paths, np.arange(5), [p.name for p in paths])


def files(split, augment):
    geometry = augmentation(SPEC, augment).geometry
    return PictureDataset(split, SplitReader(split, None, SPEC), geometry, SPEC.size)


def test_a_sample_depends_on_its_seed_only_and_leaves_the_global_generator_alone(pictures) -> None:
    data = files(pictures, "randaugment")
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
def test_batches_are_the_same_whatever_the_number_of_workers(pictures, workers) -> None:
    from torch.utils.data import DataLoader

    from tl_lightning.data.samplers.domain import DomainSampler

    data = files(pictures, "light")
    order = DomainSampler(size=5, batch_size=2, num_batches=3, seed=0, domain=0)
    loader = DataLoader(data, batch_size=2, sampler=order, num_workers=workers, collate_fn=collate)
    got = [(batch["index"].tolist(), int(batch["inputs"].sum())) for batch in loader]
    plain = [data[key] for key in order]
    wanted = [
        ([x["index"] for x in pair], int(sum(x["inputs"].long().sum() for x in pair)))
        for pair in zip(plain[::2], plain[1::2], strict=True)
    ]
    assert got == wanted


def test_without_labels_they_are_gone(pictures) -> None:
    data = files(pictures.without_labels(), "none")
    assert "labels" not in data[(0, 0)]


def test_a_broken_picture_is_named(tmp_path) -> None:
    path = tmp_path / "notes.jpg"
    path.write_text("no picture")
    with pytest.raises(DataError, match=r"cannot read picture .*notes\.jpg.*mend or remove"):
        open_picture(path)
    with pytest.raises(DataError, match=r"gone\.jpg is gone: it was there when"):
        open_picture(tmp_path / "gone.jpg")


def test_a_truncated_picture_is_named(tmp_path) -> None:
    path = tmp_path / "half.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(
        path
    )
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match=r"half\.jpg"):
        open_picture(path)


def test_arrays_come_a_batch_at_a_time_and_equal_single_samples() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (6, 16, 16, 3), dtype=np.uint8)
    data = ArrayDataset(Split(pixels, np.arange(6), list("abcdef")))
    whole = data.__getitems__([(4, 0), (1, 0)])
    assert torch.equal(whole["inputs"][1], data[(1, 0)]["inputs"])
    assert whole["labels"].tolist() == [4, 1]
    assert whole["inputs"][0, :, 2, 3].tolist() == pixels[4, 2, 3].tolist()


def test_filling_samples_are_marked() -> None:
    pixels = np.zeros((3, 4, 4, 3), dtype=np.uint8)
    data = EvalDataset(ArrayDataset(Split(pixels, np.arange(3), list("abc"))))
    assert data.__getitems__([(2, 1), (2, 0)])["index"].tolist() == [2, -1]


def test_resizing_pixels_keeps_a_flat_colour_and_the_right_size() -> None:
    flat = np.full((2, 8, 8, 3), 77, dtype=np.uint8)
    out = resize_pixels(flat, SPEC)
    assert out.shape == (2, 16, 16, 3)
    assert (out == 77).all()
    assert resize_pixels(out, SPEC) is out


def test_target_batches_hold_no_labels_in_training_and_validation(tmp_path) -> None:
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


def test_a_domain_smaller_than_the_batch_is_an_error(tmp_path) -> None:
    with pytest.raises(DataError, match=r"fewer than data.batch_size=5000; type data.batch_size="):
        training.fit(config("data.batch_size=5000"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_other_classes_than_the_checkpoints_are_refused(tmp_path, monkeypatch) -> None:
    from tl_lightning.data.datamodules.digits import Digits
    from tl_lightning.errors import ConfigError

    report = training.fit(config("trainer.max_epochs=1"), tmp_path)
    monkeypatch.setattr(Digits, "classes", tuple("abcdefghij"))
    with pytest.raises(ConfigError, match=r"knows the classes 0, 1, .* has a, b, .*same classes"):
        evaluation.evaluate(tmp_path / report["selection"]["checkpoint"], None, None)
