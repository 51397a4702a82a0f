"""Class-balanced batches of the labelled source: ``data.sampling``."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from helpers import config, plain_config, same, stopped_at, weights
from layouts import file_settings
from tl_lightning.config.validation import check as validation
from tl_lightning.data.datamodules.stream import StreamDataModule
from tl_lightning.data.datamodules.text_folders import TextFoldersDataModule
from tl_lightning.data.datamodules.vector import VectorDataModule
from tl_lightning.data.samplers.domain import BalancedSampler
from tl_lightning.errors import ConfigError
from tl_lightning.training import fit as training
from tl_lightning.types import Stream

COMMON = {
    "batch_size": 4, "eval_batch_size": 8, "steps_per_epoch": 6, "num_workers": 0, "seed": 0,
    "pin_memory": False, "target_sampling": "uniform",
}  # fmt: skip


def vectors(folder, sampling: str) -> VectorDataModule:
    """Return vectors of 40 samples of one class and 10 of the other, in both domains."""
    labels = np.array([0] * 40 + [1] * 10)
    for domain in ("source", "target"):
        values = np.random.default_rng(len(domain)).normal(size=(50, 3)).astype(np.float32)
        np.savez(folder / f"{domain}.npz", x=values, y=labels)
    nodes = {
        domain: {"train": str(folder / f"{domain}.npz"), "test": None}
        for domain in ("source", "target")
    }
    return VectorDataModule(
        name="vectors", sampling=sampling, val_fraction=0.2, test_fraction=0.2, scale="none",
        max_features=None, **nodes, **COMMON,
    )  # fmt: skip


def test_only_batches_of_the_source_are_balanced(tmp_path) -> None:
    loaders = {}
    for sampling in ("class_balanced", "uniform"):
        data = vectors(tmp_path, sampling)
        data.prepare()
        loaders[sampling] = data.train_dataloader()
    balanced, uniform = ([*loaders[name]["source"]] for name in ("class_balanced", "uniform"))
    assert [Counter(batch["labels"].tolist()) for batch in balanced] == [{0: 2, 1: 2}] * 6
    assert any(Counter(batch["labels"].tolist()) != {0: 2, 1: 2} for batch in uniform)
    targets = [list(loaders[name]["target"]) for name in ("class_balanced", "uniform")]
    for one, other in zip(*targets, strict=True):
        assert "labels" not in one
        assert torch.equal(one["index"], other["index"])


def test_texts_are_balanced_instead_of_sorted(tmp_path, monkeypatch) -> None:
    for label, number in (("neg", 30), ("pos", 10)):
        for k in range(number):
            path = tmp_path / "texts" / label / f"{k}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{label} {'word ' * (k % 5)}{k}")
    data = TextFoldersDataModule(
        name="texts", sampling="class_balanced", root=str(tmp_path / "texts"), val_fraction=0.2,
        test_fraction=0.2, test_split="auto", classes=None, transductive=False, bucket=50,
        too_long="truncate", source={"root": None, "domain": None}, target=None, **COMMON,
    )  # fmt: skip
    data.discover()
    split = data.found["source"].train
    monkeypatch.setattr(data, "training_splits", lambda: {Stream.SOURCE: split})
    monkeypatch.setattr(data, "dataset", lambda *_, **__: split)
    sampler = data.train_dataloader()["source"].sampler
    assert isinstance(sampler, BalancedSampler)
    counts = Counter(split.labels[[index for index, _ in sampler]].tolist())
    assert counts == {0: 12, 1: 12}


@pytest.mark.slow
def test_run_is_resumed_exactly(tmp_path, monkeypatch) -> None:
    settings = ["data.sampling=class_balanced", "data.augment=light"]
    training.fit(config(*settings), tmp_path / "whole")
    with stopped_at(monkeypatch, 1, 1):
        training.fit(config(*settings), tmp_path / "resumed")
    training.fit(config(*settings, "resume=auto"), tmp_path / "resumed")
    training.fit(config("data.augment=light"), tmp_path / "uniform")
    a, b, c = (
        weights(tmp_path / name / "checkpoints" / "last.ckpt")
        for name in ("whole", "resumed", "uniform")
    )
    assert same(a, b)
    assert not same(a, c)


def test_stream_is_refused(tmp_path) -> None:
    message = r"data\.sampling=class_balanced needs all labels.*set data\.sampling=uniform"
    settings = file_settings(tmp_path, sampling="class_balanced")
    kept = {key: settings[key] for key in (*COMMON, "name", "sampling", "augment", "mixup_alpha",
                                           "cutmix_alpha")}  # fmt: skip
    with pytest.raises(ConfigError, match=message):
        StreamDataModule(
            **kept, classes=None, window=2, local_copy=True,
            source={"url": "/nowhere"}, target=None,
        )  # fmt: skip
    overrides = ["data=stream", "data.source.url=/nowhere", "data.sampling=class_balanced"]
    with pytest.raises(ConfigError, match=message):
        validation.check(config_without_digits(*overrides))


def config_without_digits(*overrides: str) -> dict:
    """Return a configuration of other data than the tiny run's."""
    plain = plain_config("model=source_only", *overrides)
    assert isinstance(plain, dict)
    return plain


def test_balanced_class_weights_are_refused() -> None:
    overrides = ["data.sampling=class_balanced", "loss.class_weights=balanced"]
    with pytest.raises(ConfigError, match=r"frequencies twice; set loss\.class_weights=null"):
        validation.check(config(*overrides))
    validation.check(config(overrides[0]))
