"""The upper bound: it learns from the labelled target, and differs in nothing else."""

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
from tl_lightning.data.datamodules.digits import Digits
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.training import build as building
from tl_lightning.training import fit as training
from tl_lightning.training.build import build

ORACLE = ("model=oracle", "bracket=[]")
LAST = "checkpoints/last.ckpt"


def on_files(folder: Path, *overrides: str) -> dict[str, Any]:
    root = two_domains(folder / "set")
    place = f"data.target.root={root / 'target'}"
    found = file_config(root / "source", "data=folder", place, *overrides)
    found["data"]["batch_size"] = 2
    return found


def test_it_is_the_baseline_on_a_source_that_is_the_target(tmp_path, monkeypatch) -> None:
    """Bit for bit: only whose labelled pictures are shown differs."""
    found = training.fit(config(*ORACLE), tmp_path / "oracle")
    original = Digits.domains

    def swapped(self):
        domains = original(self)
        return {"source": domains["target"], "target": domains["target"]}

    monkeypatch.setattr(Digits, "domains", swapped)
    training.fit(config("model=source_only", "bracket=[]"), tmp_path / "swapped")
    assert same(*(weights(tmp_path / name / LAST) for name in ("oracle", "swapped")))
    assert found["learned_from"] == "target"
    assert "upper bound, not a result" in found["notes"][0]


def test_it_is_paired_with_the_others_and_takes_as_many_steps(tmp_path) -> None:
    settings = ("data.steps_per_epoch=null", "data.target_copies=2")
    names = ("oracle", "source_only")
    parts = {
        name: build(validation.check(config(f"model={name}", *settings)), tmp_path)
        for name in names
    }
    bound, plain = (parts[name].data for name in names)
    assert bound.num_batches == plain.num_batches
    assert bound.fingerprint() == plain.fingerprint()
    assert bound.counts() == plain.counts()
    labels = plain.found["target"].train.labels
    assert bound.class_counts() == np.bincount(labels).tolist() != plain.class_counts()
    assert set(bound.stored_splits()) == {
        "target/train", "source/val", "target/val", "source/test", "target/test",
    }  # fmt: skip
    assert [plain.found["target"].val.labels is None, bound.val_labels] == [
        False, ("source", "target"),
    ]  # fmt: skip


def test_decoded_pictures_are_the_targets_own(tmp_path, monkeypatch) -> None:
    """Both domains have files of the same names."""
    monkeypatch.setenv("TL_CACHE", str(tmp_path / "cache"))
    parts = build(validation.check(on_files(tmp_path, *ORACLE, "cache.images=decoded")), tmp_path)
    parts.data.trainer = parts.trainer
    read = parts.data.train_dataloader()["source"].dataset.read
    theirs = parts.data.caches["target"]
    assert torch.equal(read(0), CachedReader(theirs, parts.data.found["target"].train.names)(0))
    names = parts.data.found["source"].train.names
    assert not torch.equal(read(0), CachedReader(parts.data.caches["source"], names)(0))


def test_without_a_target_there_is_no_bound() -> None:
    with pytest.raises(ConfigError, match=r"model=oracle learns from a target, but data.target=nu"):
        validation.check(config(*ORACLE, "data.target=null"))


def test_it_is_never_tested_on_what_it_learned(tmp_path) -> None:
    whole = on_files(tmp_path, *ORACLE, "data.transductive=true")
    with pytest.raises(ConfigError, match=r"whose labels it has learned.*data.transductive=false"):
        validation.check(whole)
    data = building.build_data(whole)
    data.learn_from = "target"
    with pytest.raises(DataError, match=r"tested on pictures whose labels it learned: \d+ of targ"):
        data.discover()
