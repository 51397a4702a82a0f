"""Defaults follow the size of the data; settings of the user are kept."""

from __future__ import annotations

import csv
from typing import Any

import pytest

from helpers import config, plain_config
from layouts import class_folders, image
from tl_lightning.config.validation.check import check
from tl_lightning.errors import DataError
from tl_lightning.reporting.run.page import write_page
from tl_lightning.training import fit as training
from tl_lightning.training import limits
from tl_lightning.training.limits import still_falling
from tl_lightning.training.small_data import LEAST_STEPS, fit_to_size


def settings(root, *overrides: str) -> dict[str, Any]:
    """Return a configuration with the default settings of batches and epochs."""
    arguments = ["data=folder", f"data.root={root}", "model=source_only", *overrides]
    plain = plain_config(*arguments, "trainer=cpu")
    return dict(plain)


def found(root, *overrides: str) -> Any:
    """Return the data module of a run with the default settings of batches and epochs."""
    run = check(settings(root, *overrides))
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


@pytest.mark.slow
def test_the_page_tells_a_falling_loss(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(limits, "_FALL", 0.001)
    fast = ("optimizer.lr=0.003", "scheduler=constant", "data.steps_per_epoch=15")
    report = training.fit(config("model=source_only", "test=false", *fast), tmp_path)
    note = next(text for text in report["notes"] if "loss was still falling" in text)
    assert note.split(";")[0] in write_page(tmp_path).read_text()


@pytest.mark.slow
def test_a_longer_run_keeps_the_batches_of_its_checkpoint(tmp_path) -> None:
    root = class_folders(tmp_path / "photos", 14, size=(8, 8))
    small = config()
    own = {key: small[key] for key in ("callbacks", "report", "checkpointing", "channels_last")}
    arguments = ("backbone=tiny_cnn", "data.augment=none", "data.num_workers=0", "test=false")

    def trained(*overrides: str) -> dict[str, Any]:
        return training.fit(settings(root, *arguments, *overrides) | own, tmp_path / "run")

    first = trained()
    longer = trained("resume=auto", "trainer.max_epochs=4")
    assert first["scale"]["batch_size"] == longer["scale"]["batch_size"] == 8
    assert (first["timing"]["steps"], longer["timing"]["steps"]) == (150, 200)
    assert any("so 4 epochs of 50 batches of 8 were trained" in note for note in longer["notes"])
    few = tmp_path / "few"
    for overrides in (("trainer.max_epochs=2",), ("resume=auto",)):
        report = training.fit(settings(root, *arguments, *overrides) | own, few)
    assert (report["scale"]["batch_size"], report["timing"]["steps"]) == (27, 3)


def test_advice_to_train_longer_keeps_fitted_batches(tmp_path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,step,train/task\n0,0,2.0\n1,1,1.0\n")
    advice = "trainer.max_epochs=4 data.batch_size=8 data.steps_per_epoch=50"
    assert still_falling(tmp_path, (8, 50))[0].endswith(advice)


@pytest.mark.parametrize("name", ["coral", "jan", "mmd"])
def test_a_domain_of_one_sample_is_refused_where_samples_are_compared(name, tmp_path) -> None:
    root = class_folders(tmp_path / "photos", 6, size=(8, 8))
    for number in range(2):  # one for training, one for validation
        image(tmp_path / "sketches" / f"{number}.jpg", number)
    overrides = ["model=domain_adaptation", f"method=[{name}]", "backbone=tiny_cnn"]
    plain = settings(root, *overrides, f"data.target.root={tmp_path}/sketches")
    message = rf"method=\[{name}\] .* needs at least 2 training samples .* but sketches has 1; add"
    with pytest.raises(DataError, match=message):
        training.fit(plain, tmp_path / "run")
