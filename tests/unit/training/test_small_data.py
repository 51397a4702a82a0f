"""Defaults follow the size of the data; settings of the user are kept."""

from __future__ import annotations

import csv
from typing import Any

import pytest
from omegaconf import OmegaConf

from helpers import config
from layouts import class_folders
from tl_lightning.config.compose import compose
from tl_lightning.config.validation.check import check
from tl_lightning.reporting.run.page import write_page
from tl_lightning.training import fit as training
from tl_lightning.training import limits
from tl_lightning.training.limits import still_falling
from tl_lightning.training.small_data import LEAST_STEPS, fit_to_size


def found(root, *overrides: str) -> Any:
    """Return the data module of a run with the default settings of batches and epochs."""
    arguments = ["data=folder", f"data.root={root}", "model=source_only", *overrides]
    plain: Any = OmegaConf.to_container(compose([*arguments, "trainer=cpu"]), resolve=True)
    run = check(plain)
    data = run.data.build()
    data.discover()
    fit_to_size(run, data)
    return data


@pytest.mark.parametrize(("number", "batch"), [(4, 6), (14, 8), (100, 21), (170, 32)])
def test_small_data_are_trained_for_enough_steps(tmp_path, number, batch) -> None:
    data = found(class_folders(tmp_path, number, size=(8, 8)))
    assert data.batch_size == batch
    assert 3 * data.num_batches == LEAST_STEPS
    assert len(data.size_notes) == 1
    assert "are few for the default settings, so 3 epochs of 50 batches" in data.size_notes[0]


@pytest.mark.parametrize(
    "setting",
    ["data.batch_size=16", "data.steps_per_epoch=4", "trainer.max_epochs=5", "trainer.max_steps=9"],
)
def test_settings_of_the_user_are_kept(tmp_path, setting) -> None:
    data = found(class_folders(tmp_path, 20, size=(8, 8)), setting)
    assert data.batch_size == (16 if "batch" in setting else 32)
    assert data.steps_per_epoch == (4 if "steps_per" in setting else None)
    assert data.size_notes == []


def test_other_data_are_not_changed() -> None:
    run = check(config("data.batch_size=32", "data.steps_per_epoch=null", "trainer.max_epochs=3"))
    data = run.data.build()
    data.discover()
    fit_to_size(run, data)
    assert (data.batch_size, data.steps_per_epoch, data.size_notes) == (32, None, [])


@pytest.mark.parametrize(
    ("losses", "told"),
    [
        ([2.0, 1.0, 0.5], True),
        ([2.0, 1.0, 0.95], False),
        ([1.0, 0.05, 0.01], False),
        ([1.0], False),
    ],
)
def test_a_falling_loss_is_told(tmp_path, losses, told) -> None:
    with (tmp_path / "metrics.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, ["epoch", "step", "train/task"])
        writer.writeheader()
        for epoch, loss in enumerate(losses):
            writer.writerow({"epoch": epoch, "step": epoch, "train/task": loss})
    notes = still_falling(tmp_path)
    assert bool(notes) == told
    if told:
        assert "(1 to 0.5 in the last epoch); more than 3 epochs may" in notes[0]
        assert notes[0].endswith("trainer.max_epochs=6")


def test_the_page_tells_a_falling_loss(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(limits, "_FALL", 0.001)
    fast = ("optimizer.lr=0.003", "scheduler=constant", "data.steps_per_epoch=15")
    report = training.fit(config("model=source_only", "test=false", *fast), tmp_path)
    note = next(text for text in report["notes"] if "loss was still falling" in text)
    assert note.split(";")[0] in write_page(tmp_path).read_text()
