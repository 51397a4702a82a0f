"""What validators log, on which rows, who reads it, and that a resumed run goes on with it."""

from __future__ import annotations

import csv
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch

from conftest import TINY
from helpers import command, config
from tl_lightning.config.validation import check as validation
from tl_lightning.data.datamodules.base import TransferData
from tl_lightning.errors import ConfigError
from tl_lightning.reporting.formatting import RULES
from tl_lightning.reporting.studies.selection_runs import SCORES
from tl_lightning.selection.callback import Validators
from tl_lightning.selection.collapse import WORST, kept
from tl_lightning.selection.rules import SELECTIONS
from tl_lightning.selection.scores import NAMES, Outputs
from tl_lightning.training import fit as training
from tl_lightning.training.results import group_of

FAST = ("callbacks.health=null", "bracket=[]")


def logged(folder: Path) -> dict[str, list[float]]:
    """Return each column of a run that validators or validation wrote, by epoch."""
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = [n for n in rows[0] if n.startswith("validator/") or "/val/" in n]
    return {name: [float(row[name]) for row in rows if row[name]] for name in names}


def test_what_is_logged_with_a_target_and_without(tmp_path) -> None:
    training.fit(config(*FAST), tmp_path / "with")
    found = logged(tmp_path / "with")
    for name in NAMES:
        assert len(found[f"validator/{name}"]) == len(found[f"validator/floored/{name}"]) == 2
    # All pictures are scored here, so that both ways to compute them agree.
    assert found["validator/im"] == pytest.approx(found["target/val/im"], abs=1e-5)
    assert found["validator/entropy"] == pytest.approx(
        [-value for value in found["target/val/entropy"]], abs=1e-5
    )
    assert found["validator/source_val"] == pytest.approx(found["source/val/acc"])
    assert "target/val/acc" not in found
    training.fit(config(*FAST, "model=source_only", "data.target=null"), tmp_path / "alone")
    names = {name for name in logged(tmp_path / "alone") if name.startswith("validator/")}
    assert names == {"validator/source_val", "validator/floor"}


def test_labels_of_the_target_change_no_score(tmp_path, monkeypatch) -> None:
    track = config(*FAST, "track_target=true")
    report = training.fit(track, tmp_path / "true")
    assert report["tracks_target"] is True
    assert any("track_target=true" in note for note in report["notes"])
    honest = TransferData.discover

    def permuted(self) -> None:
        honest(self)
        self.found["target"].val.labels[:] = np.roll(self.found["target"].val.labels, 7)

    monkeypatch.setattr(TransferData, "discover", permuted)
    training.fit(track, tmp_path / "permuted")
    true, other = logged(tmp_path / "true"), logged(tmp_path / "permuted")
    assert true.pop("target/val/acc") != other.pop("target/val/acc")
    for name in true:
        assert name.startswith("target/val/") or true[name] == other[name], name


def test_the_rows_do_not_depend_on_the_batches(tmp_path, monkeypatch) -> None:
    seen: list[dict[str, Outputs]] = []
    honest = Validators.score

    def watch(self, outputs):
        seen.append(dict(outputs))
        return honest(self, outputs)

    monkeypatch.setattr(Validators, "score", watch)
    few = (*FAST, "callbacks.validators.samples=20", "trainer.max_epochs=1")
    for size in (7, 64):
        training.fit(config(*few, f"data.eval_batch_size={size}"), tmp_path / str(size))
    for role in ("source", "target"):
        a, b = seen[0][role], seen[1][role]
        assert len(a.logits) == len(a.features) == 20
        assert np.allclose(a.logits, b.logits, atol=1e-5)
    assert seen[0]["target"].labels is None
    assert seen[0]["source"].labels is not None


SCRIPT = {
    # Epoch: source accuracy, floored score. The first is bad on the source, which shows later.
    0: (0.3, 9.0), 1: (0.5, 2.0), 2: (0.52, 3.0), 3: (0.5, 2.5), 4: (0.9, WORST + 0.9),
    5: (0.85, 1.0),
}  # fmt: skip


def scripted(monkeypatch) -> None:
    """Let the runs to come score what stands in SCRIPT."""
    honest = Validators.on_validation_epoch_end

    def end(self, trainer, module):
        accuracy, score = SCRIPT[trainer.current_epoch]
        best = max(self.best_source_acc, accuracy)
        values = {"validator/source_val": accuracy, "validator/floor": 0.9 * best}
        values |= {f"validator/floored/{name}": score for name in NAMES}
        monkeypatch.setattr(Validators, "score", lambda *_: values)
        honest(self, trainer, module)

    monkeypatch.setattr(Validators, "on_validation_epoch_end", end)


@pytest.mark.parametrize("epochs", [1, 2, 4, 5, 6])
def test_the_run_keeps_what_the_rule_says(epochs, tmp_path, monkeypatch) -> None:
    scripted(monkeypatch)
    plain = config(*FAST, "selection=snd", f"trainer.max_epochs={epochs}", "data.steps_per_epoch=1")
    report = training.fit(plain, tmp_path)
    accuracy, values = zip(*list(SCRIPT.values())[:epochs], strict=True)
    assert report["selection"]["epoch"] == kept(values, accuracy, 0.9)
    assert report["selection"]["monitor"] == "validator/floored/snd"
    # After five, those fit for the classes are below the floor of the fifth, which is not.
    assert any("collapsed" in note for note in report["notes"]) is (epochs == 5)


def test_where_every_epoch_has_collapsed_the_best_on_the_source_is_kept_and_said(
    tmp_path, monkeypatch
) -> None:
    few = {0: (0.1, WORST + 0.1), 1: (0.4, WORST + 0.4), 2: (0.3, WORST + 0.3)}
    monkeypatch.setitem(globals(), "SCRIPT", few)
    scripted(monkeypatch)
    extra = ("trainer.max_epochs=3", "data.steps_per_epoch=1")
    report = training.fit(config(*FAST, "selection=dev", *extra), tmp_path)
    assert report["selection"]["epoch"] == 1
    assert any("every epoch counted as collapsed" in note for note in report["notes"])


class Stop(Exception):
    """Ends a run as a power cut would."""


class StopAt(L.Callback):
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        if trainer.current_epoch == self.epoch:
            trainer.save_checkpoint(trainer.checkpoint_callback.dirpath + "/last.ckpt")
            raise Stop


def test_a_resumed_run_goes_on_with_the_best_accuracy_and_what_it_kept(
    tmp_path, monkeypatch
) -> None:
    scripted(monkeypatch)
    settings = ("selection=im", "trainer.max_epochs=4", "data.steps_per_epoch=2")
    whole = training.fit(config(*FAST, *settings), tmp_path / "whole")
    honest = training.build

    def build(*arguments):
        parts = honest(*arguments)
        parts.trainer.callbacks.append(StopAt(3))
        return parts

    monkeypatch.setattr(training, "build", build)
    with pytest.raises(Stop):
        training.fit(config(*FAST, *settings), tmp_path / "cut")
    stored = torch.load(tmp_path / "cut" / "checkpoints" / "last.ckpt", weights_only=True)
    assert stored["callbacks"]["Validators"] == {"best_source_acc": 0.52}
    monkeypatch.setattr(training, "build", honest)
    resumed = training.fit(config(*FAST, *settings, "resume=auto"), tmp_path / "cut")
    assert resumed["selection"] == whole["selection"]
    assert resumed["selection"]["epoch"] == 2
    assert resumed["metrics"] == whole["metrics"]


def test_the_floor_goes_on_from_the_stored_best() -> None:
    callback = Validators(samples=10, floor_ratio=0.9, least_predicted=0.5)
    callback.load_state_dict({"best_source_acc": 0.8})
    half = Outputs(np.zeros((4, 1)), np.eye(2)[[0, 0, 1, 1]], np.array([0, 1, 0, 1]))
    found = callback.score({"source": half, "target": half})
    assert found["validator/source_val"] == 0.5
    assert found["validator/floor"] == pytest.approx(0.72)
    assert found["validator/im"] > found["validator/floored/im"] == WORST + 0.5


def test_an_old_checkpoint_knows_no_floor(tmp_path) -> None:
    plain = config("selection=snd", *FAST)
    checkpoint = training.build(validation.check(plain), tmp_path).trainer.checkpoint_callback
    old = checkpoint.state_dict()
    del old["kept_source_acc"]
    checkpoint.kept_source_acc = 0.7
    checkpoint.load_state_dict(old)
    assert checkpoint.kept_source_acc == 0.0


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("callbacks.validators.samples=1", "samples=1 are too few pictures.*type .*samples=1000"),
        ("callbacks.validators.floor_ratio=1.5", r"floor_ratio=1.5 is not in \[0, 1\]; type"),
        ("callbacks.validators.least_predicted=-1", r"least_predicted=-1 is not in \[0, 1\]; type"),
        ("track_target=maybe", "track_target=maybe is neither true nor false; type track_target="),
    ],
)
def test_fault_words(override, words) -> None:
    with pytest.raises(ConfigError, match=words):
        validation.check(config(override))


def test_words_about_what_is_missing() -> None:
    gone = config("selection=snd", "callbacks.validators=null")
    with pytest.raises(ConfigError, match=r"selection=snd reads .*validators, which is not there"):
        validation.check(gone)
    alone = ("model=source_only", "data.target=null")
    with pytest.raises(ConfigError, match=r"track_target=true logs accuracy .*type track_target=f"):
        validation.check(config("track_target=true", *alone))
    with pytest.raises(ConfigError, match="selection=dev scores target pictures"):
        validation.check(config("selection=dev", *alone))
    with pytest.raises(ConfigError, match="floor_ratio=2"):
        Validators(samples=10, floor_ratio=2, least_predicted=0.5)


def test_every_rule_by_a_score_reads_a_floored_one() -> None:
    rules = {name for name, rule in SELECTIONS.items() if "floored" in str(rule.monitor)}
    assert rules == set(NAMES)
    assert set(SELECTIONS) <= RULES.keys()  # the page has words for each
    assert SCORES == NAMES  # and the study looks at each


def test_the_floor_belongs_to_the_method_where_a_rule_reads_it() -> None:
    def group(*overrides: str) -> str:
        return group_of(validation.check(config(*overrides)))

    other = "callbacks.validators.floor_ratio=0.5"
    assert group("selection=snd") != group("selection=snd", other)
    assert group() == group(other) == group("track_target=true")


@pytest.mark.slow
def test_two_ranks_score_what_one_does(tmp_path) -> None:
    ranks = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "data.batch_size=8"]
    plain = [*FAST, "backbone.norm=false", "optimizer=sgd", "optimizer.lr=0.05", "selection=dev",
             "callbacks.validators.samples=33"]  # fmt: skip
    for name, arguments in (("two", [*TINY, *ranks]), ("one", TINY)):
        done = command("train", [*arguments, *plain, f"hydra.run.dir={name}"], tmp_path)
        assert done.returncode == 0, done.stderr
    two, one = (logged(tmp_path / name) for name in ("two", "one"))
    for name, values in one.items():
        if name.startswith("validator/"):
            assert two[name] == pytest.approx(values, rel=1e-3, abs=1e-4), name
