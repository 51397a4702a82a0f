"""The validators callback: logged scores, scored samples, selection rules and resuming."""

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
from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.errors import ConfigError
from tl_lightning.reporting.run import context
from tl_lightning.reporting.studies import selection_regret
from tl_lightning.selection.callback import Validators
from tl_lightning.selection.collapse import WORST, kept
from tl_lightning.selection.rules import SELECTIONS
from tl_lightning.selection.scores import SCORES, Outputs
from tl_lightning.training import fit as training
from tl_lightning.training.results import group_of

FAST = ("callbacks.adversary_monitor=null", "baselines=[]")


def logged(folder: Path) -> dict[str, list[float]]:
    """Return the validation and validator columns of a run by epoch."""
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = [n for n in rows[0] if n.startswith("validator/") or "/val/" in n]
    return {name: [float(row[name]) for row in rows if row[name]] for name in names}


@pytest.mark.slow
def test_logged_scores_with_and_without_target(tmp_path) -> None:
    training.fit(config(*FAST), tmp_path / "with")
    columns = logged(tmp_path / "with")
    for name in SCORES:
        assert len(columns[f"validator/{name}"]) == len(columns[f"validator/floored/{name}"]) == 2
    # All images are scored, so the scores equal the metrics computed by the module.
    assert columns["validator/im"] == pytest.approx(columns["target/val/im"], abs=1e-5)
    assert columns["validator/entropy"] == pytest.approx(
        [-value for value in columns["target/val/entropy"]], abs=1e-5
    )
    assert columns["validator/source_val"] == pytest.approx(columns["source/val/acc"])
    assert "target/val/acc" not in columns
    training.fit(config(*FAST, "model=source_only", "data.target=null"), tmp_path / "without")
    names = {name for name in logged(tmp_path / "without") if name.startswith("validator/")}
    assert names == {"validator/source_val", "validator/floor"}


@pytest.mark.slow
def test_target_labels_do_not_affect_scores(tmp_path, monkeypatch) -> None:
    track = config(*FAST, "track_target=true")
    report = training.fit(track, tmp_path / "true")
    assert report["tracks_target"] is True
    assert any("track_target=true" in note for note in report["notes"])
    original = TransferDataModule.discover

    def permuted(self, *arguments, **keywords):
        info = original(self, *arguments, **keywords)
        self.found["target"].val.labels[:] = np.roll(self.found["target"].val.labels, 7)
        return info

    monkeypatch.setattr(TransferDataModule, "discover", permuted)
    training.fit(track, tmp_path / "permuted")
    true, other = logged(tmp_path / "true"), logged(tmp_path / "permuted")
    assert true.pop("target/val/acc") != other.pop("target/val/acc")
    for name in true:
        assert name.startswith("target/val/") or true[name] == other[name], name


@pytest.mark.slow
def test_scored_samples_do_not_depend_on_batch_size(tmp_path, monkeypatch) -> None:
    scored: list[dict[str, Outputs]] = []
    original = Validators.score

    def watch(self, outputs, mix=None):
        scored.append(dict(outputs))
        return original(self, outputs, mix)

    monkeypatch.setattr(Validators, "score", watch)
    few = (*FAST, "callbacks.validators.samples=20", "trainer.max_epochs=1")
    for size in (7, 64):
        training.fit(config(*few, f"data.eval_batch_size={size}"), tmp_path / str(size))
    for domain in ("source", "target"):
        a, b = scored[0][domain], scored[1][domain]
        assert len(a.logits) == len(a.features) == 20
        assert np.allclose(a.logits, b.logits, atol=1e-5)
    assert scored[0]["target"].labels is None
    assert scored[0]["source"].labels is not None


SCRIPT = {
    # Epoch: source accuracy, filtered score. The first model is demoted in a later epoch.
    0: (0.3, 9.0), 1: (0.5, 2.0), 2: (0.52, 3.0), 3: (0.5, 2.5), 4: (0.9, WORST + 0.9),
    5: (0.85, 1.0),
}  # fmt: skip


def use_script(monkeypatch) -> None:
    """Make runs log the values in SCRIPT."""
    original = Validators.on_validation_epoch_end

    def end(self, trainer, module):
        accuracy, score = SCRIPT[trainer.current_epoch]
        best = max(self.best_source_acc, accuracy)
        values = {"validator/source_val": accuracy, "validator/floor": 0.9 * best}
        values |= {f"validator/floored/{name}": score for name in SCORES}
        monkeypatch.setattr(Validators, "score", lambda *_: values)
        original(self, trainer, module)

    monkeypatch.setattr(Validators, "on_validation_epoch_end", end)


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [1, 2, 4, 5, 6])
def test_run_keeps_model_chosen_by_rule(epochs, tmp_path, monkeypatch) -> None:
    use_script(monkeypatch)
    plain = config(*FAST, "selection=snd", f"trainer.max_epochs={epochs}", "data.steps_per_epoch=1")
    report = training.fit(plain, tmp_path)
    accuracy, values = zip(*list(SCRIPT.values())[:epochs], strict=True)
    assert report["selection"]["epoch"] == kept(values, accuracy, 0.9)
    assert report["selection"]["monitor"] == "validator/floored/snd"
    # Epoch 4 has collapsed, and due to its source accuracy all earlier models count as collapsed.
    assert any("collapsed" in note for note in report["notes"]) is (epochs == 5)


@pytest.mark.slow
def test_best_source_accuracy_is_kept_and_reported_if_all_epochs_have_collapsed(
    tmp_path, monkeypatch
) -> None:
    script = {0: (0.1, WORST + 0.1), 1: (0.4, WORST + 0.4), 2: (0.3, WORST + 0.3)}
    monkeypatch.setitem(globals(), "SCRIPT", script)
    use_script(monkeypatch)
    extra = ("trainer.max_epochs=3", "data.steps_per_epoch=1")
    report = training.fit(config(*FAST, "selection=dev", *extra), tmp_path)
    assert report["selection"]["epoch"] == 1
    assert any("every epoch counted as collapsed" in note for note in report["notes"])


class Stop(Exception):
    """Ends a run abruptly, as a power failure would."""


class StopAt(L.Callback):
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        if trainer.current_epoch == self.epoch:
            trainer.save_checkpoint(trainer.checkpoint_callback.dirpath + "/last.ckpt")
            raise Stop


@pytest.mark.slow
def test_resumed_run_restores_best_accuracy_and_best_model(tmp_path, monkeypatch) -> None:
    use_script(monkeypatch)
    settings = ("selection=im", "trainer.max_epochs=4", "data.steps_per_epoch=2")
    whole = training.fit(config(*FAST, *settings), tmp_path / "whole")
    original = training.build

    def build(*arguments, **keywords):
        parts = original(*arguments, **keywords)
        parts.trainer.callbacks.append(StopAt(3))
        return parts

    monkeypatch.setattr(training, "build", build)
    with pytest.raises(Stop):
        training.fit(config(*FAST, *settings), tmp_path / "stopped")
    stored = torch.load(tmp_path / "stopped" / "checkpoints" / "last.ckpt", weights_only=True)
    assert stored["callbacks"]["Validators"]["best_source_acc"] == 0.52
    monkeypatch.setattr(training, "build", original)
    resumed = training.fit(config(*FAST, *settings, "resume=auto"), tmp_path / "stopped")
    assert resumed["selection"] == whole["selection"]
    assert resumed["selection"]["epoch"] == 2
    assert resumed["metrics"] == whole["metrics"]


def test_collapse_filter_uses_restored_best_accuracy() -> None:
    callback = Validators(samples=10, min_source_ratio=0.9, min_predicted_classes=0.5)
    callback.load_state_dict({"best_source_acc": 0.8})
    half = Outputs(np.zeros((4, 1)), np.eye(2)[[0, 0, 1, 1]], np.array([0, 1, 0, 1]))
    values = callback.score({"source": half, "target": half})
    assert values["validator/source_val"] == 0.5
    assert values["validator/floor"] == pytest.approx(0.72)
    assert values["validator/im"] > values["validator/floored/im"] == WORST + 0.5


def test_class_frequencies_are_those_of_the_first_model_and_restored() -> None:
    callback = Validators(samples=10, min_source_ratio="auto", min_predicted_classes="auto")
    labels = np.arange(40) % 2
    source = Outputs(np.zeros((40, 1)), 6 * np.eye(2)[labels], labels)
    first, second = (
        Outputs(np.zeros((20, 1)), 6 * np.eye(2)[np.repeat([0, 1], [n, 20 - n])]) for n in (15, 10)
    )
    callback.mix = Validators.mix_of({"source": source, "target": first})
    assert callback.mix == pytest.approx([0.74, 0.26], abs=0.02)
    fits, far = (
        callback.score({"source": source, "target": one}, callback.mix)["validator/prior_im"]
        for one in (first, second)
    )
    assert fits > far + 0.1
    other = Validators(samples=10, min_source_ratio=0.9, min_predicted_classes=0.5)
    other.load_state_dict(callback.state_dict())
    assert np.array_equal(other.mix, callback.mix)
    assert Validators.mix_of({"source": source}) is None
    broken = Outputs(np.zeros((1, 1)), np.full((1, 2), np.nan))
    assert Validators.mix_of({"source": source, "target": broken}) is None


@pytest.mark.parametrize(
    ("overrides", "rule", "least", "drop", "ratio"),
    [
        ((), "bnm", 0.5, 0.4, 0.9),
        (("+data.target.classes=subset",), "prior_im", 0.0, 1.0, 0.9),
        (("+data.target.classes=universal",), "prior_im", 0.0, 1.0, 0.9),
        (("+data.target.classes=open",), "prior_im", 0.5, 0.4, 0.9),
        (("label_shift=prior",), "prior_im", 0.5, 0.4, 0.9),
        (("data.target_sampling=pseudo_balanced",), "prior_im", 0.5, 0.4, 0.9),
        (("model=domain_adaptation", "method=[class_weights,dann]"), "prior_im", 0.5, 0.4, 0.5),
        (("+data.target.classes=subset", "selection=bnm"), "bnm", 0.0, 1.0, 0.9),
    ],
)
def test_selection_where_class_frequencies_differ(overrides, rule, least, drop, ratio) -> None:
    auto = (
        "callbacks.rollback.max_drop", "callbacks.validators.min_predicted_classes",
        "callbacks.validators.min_source_ratio",
    )  # fmt: skip
    extra = [f"{key}=auto" for key in auto]
    run = validation.check(config("selection=auto", *overrides, *extra))
    assert run.selection == rule
    callbacks = run.plain["callbacks"]
    assert callbacks["validators"]["min_predicted_classes"] == least
    assert callbacks["validators"]["min_source_ratio"] == ratio
    assert callbacks["rollback"]["max_drop"] == drop


def test_checkpoint_restores_source_accuracy_of_best_model(tmp_path) -> None:
    plain = config("selection=snd", *FAST)
    checkpoint = training.build(validation.check(plain), tmp_path).trainer.checkpoint_callback
    checkpoint.kept_source_acc = 0.7
    stored = checkpoint.state_dict()
    checkpoint.kept_source_acc = 0.0
    checkpoint.load_state_dict(stored)
    assert checkpoint.kept_source_acc == 0.7


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("callbacks.validators.samples=1", "samples=1 must be at least 2; set .*samples=1000"),
        (
            "callbacks.validators.min_source_ratio=1.5",
            r"min_source_ratio=1.5 is not in \[0, 1\]; set callbacks.validators.min_source_ratio=",
        ),
        (
            "callbacks.validators.min_predicted_classes=-1",
            r"min_predicted_classes=-1 is not in \[0, 1\]; set callbacks.validators.min_predic",
        ),
        ("track_target=maybe", "track_target=maybe is not true or false; set track_target="),
    ],
)
def test_invalid_settings_are_reported(override, message) -> None:
    with pytest.raises(ConfigError, match=message):
        validation.check(config(override))


def test_missing_requirements_are_reported() -> None:
    removed = config("selection=snd", "callbacks.validators=null")
    with pytest.raises(
        ConfigError,
        match=r"selection=snd needs .*validators, which is not enabled; set",
    ):
        validation.check(removed)
    no_target = ("model=source_only", "data.target=null")
    with pytest.raises(ConfigError, match=r"track_target=true logs accuracy .*set track_target=f"):
        validation.check(config("track_target=true", *no_target))
    with pytest.raises(ConfigError, match="selection=dev scores target samples"):
        validation.check(config("selection=dev", *no_target))
    with pytest.raises(ConfigError, match="min_source_ratio=2"):
        Validators(samples=10, min_source_ratio=2, min_predicted_classes=0.5)


def test_rules_use_scores_after_the_collapse_filter() -> None:
    rules = {name for name, rule in SELECTIONS.items() if "floored" in str(rule.monitor)}
    assert rules == set(SCORES)
    for name, rule in SELECTIONS.items():  # the report describes each rule
        assert context._selection({"rule": name})["text"] == rule.description != ""
    compared = {name for name, filtered in selection_regret.RULES if filtered}
    assert compared == set(SCORES)  # the study compares each score


def test_collapse_filter_settings_are_part_of_the_group_if_used_by_the_rule() -> None:
    def group(*overrides: str) -> str:
        return group_of(validation.check(config(*overrides)))

    other = "callbacks.validators.min_source_ratio=0.5"
    assert group("selection=snd") != group("selection=snd", other)
    assert group() == group(other) == group("track_target=true")


@pytest.mark.slow
def test_two_ranks_log_the_scores_of_one_rank(tmp_path) -> None:
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
