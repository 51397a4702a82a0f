"""The oracle: trained on the labelled target, and otherwise the same as the other models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers import config, file_config, same, weights
from layouts import two_domains
from tl_lightning.config.validation import check as validation
from tl_lightning.data.cache.images import CachedReader
from tl_lightning.data.datamodules.digits import DigitsDataModule
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.training import fit as training
from tl_lightning.training.build import build

ORACLE = ("model=oracle", "baselines=[]")
LAST = "checkpoints/last.ckpt"


def on_files(folder: Path, *overrides: str) -> dict[str, Any]:
    root = two_domains(folder / "set")
    target = f"data.target.root={root / 'target'}"
    result = file_config(root / "source", "data=folder", target, *overrides)
    result["data"]["batch_size"] = 2
    return result


@pytest.mark.slow
def test_oracle_equals_source_only_trained_on_the_target(tmp_path, monkeypatch) -> None:
    """Bit for bit: only the training domain differs."""
    result = training.fit(config(*ORACLE), tmp_path / "oracle")
    original = DigitsDataModule.domains

    def swapped(self):
        domains = original(self)
        return {"source": domains["target"], "target": domains["target"]}

    monkeypatch.setattr(DigitsDataModule, "domains", swapped)
    training.fit(config("model=source_only", "baselines=[]"), tmp_path / "swapped")
    assert same(*(weights(tmp_path / name / LAST) for name in ("oracle", "swapped")))
    assert result["learned_from"] == "target"
    assert "upper bound, not a result" in result["notes"][0]


def test_splits_and_number_of_steps_equal_those_of_source_only(tmp_path) -> None:
    settings = ("data.steps_per_epoch=null", "data.target_copies=2")
    names = ("oracle", "source_only")
    parts = {
        name: build(validation.check(config(f"model={name}", *settings)), tmp_path)
        for name in names
    }
    oracle, plain = (parts[name].data for name in names)
    assert oracle.num_batches == plain.num_batches
    assert oracle.fingerprint() == plain.fingerprint()
    assert oracle.counts() == plain.counts()
    labels = plain.found["target"].train.labels
    assert oracle.class_counts() == np.bincount(labels).tolist() != plain.class_counts()
    assert set(map(str, oracle.stored_splits())) == {
        "target/train", "source/val", "target/val", "source/test", "target/test",
    }  # fmt: skip
    assert [plain.found["target"].val.labels is None, oracle.prepared.val_labels] == [
        False, ("source", "target"),
    ]  # fmt: skip


def test_decoded_images_are_read_from_the_target_cache(tmp_path, monkeypatch) -> None:
    """Both domains have files with the same names."""
    monkeypatch.setenv("TL_CACHE", str(tmp_path / "cache"))
    parts = build(validation.check(on_files(tmp_path, *ORACLE, "cache.images=decoded")), tmp_path)
    parts.data.trainer = parts.trainer
    read = parts.data.train_dataloader()["source"].dataset.read
    cache = parts.data.caches["target"]
    assert torch.equal(read(0), CachedReader(cache, parts.data.found["target"].train.names)(0))
    names = parts.data.found["source"].train.names
    assert not torch.equal(read(0), CachedReader(parts.data.caches["source"], names)(0))


def test_error_without_a_target() -> None:
    with pytest.raises(ConfigError, match=r"model=oracle learns from a target, but data.target=nu"):
        validation.check(config(*ORACLE, "data.target=null"))


def test_error_if_tested_on_training_samples(tmp_path) -> None:
    whole = on_files(tmp_path, *ORACLE, "data.transductive=true")
    other = {**whole, "model": config("model=source_only")["model"]}
    with pytest.raises(ConfigError, match=r"that it was trained on.*set data.transductive=false"):
        validation.check(whole)
    data = validation.check(other).data.build()
    with pytest.raises(DataError, match=r"tested on its own training samples: \d+ of target"):
        data.discover(learn_from="target")
