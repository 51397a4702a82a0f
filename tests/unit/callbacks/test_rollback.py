"""Roll-back of a collapsed model to the last good validation."""

from __future__ import annotations

import csv
import math
from typing import Any

import lightning as L
import pytest
import torch

from helpers import Stop, config, fit_watched, same, weights
from tl_lightning.callbacks.rollback import Rollback
from tl_lightning.callbacks.weight_averaging import Averaging
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import ConfigError
from tl_lightning.methods.mcc import MCC
from tl_lightning.selection.callback import Validators
from tl_lightning.training import fit as training
from tl_lightning.training.results import group_of

LAST = "checkpoints/last.ckpt"
#: Six steps are too few for the network to predict most classes, so only one class is a collapse.
RUN = (
    "model=mcc", "trainer.max_epochs=4", "baselines=[]", "optimizer.lr=0.01",
    "callbacks.validators.min_source_ratio=0", "callbacks.validators.min_predicted_classes=0",
    "callbacks.rollback.max_drop=0.8", "callbacks.rollback.ramp_steps=2",
)  # fmt: skip
TEACHER = (
    "model=self_training", "method.self_training.threshold=0.9",
    "method.self_training.momentum=0.5",
)  # fmt: skip


def state_of(trainer: L.Trainer, module: Any) -> dict[str, torch.Tensor]:
    """Return the weights, buffers and optimizer state, as one mapping of copies."""
    found = {name: value.clone() for name, value in module.state_dict().items()}
    for key, entry in trainer.optimizers[0].state_dict()["state"].items():
        found |= {f"optimizer.{key}.{name}": value.clone() for name, value in entry.items()}
    return found


class Sabotage(L.Callback):
    """Makes the model predict one class at the end of given epochs, and records what follows.

    Attributes:
        before: State when the validation of an epoch starts; of -1, before training.
        after: State when the epoch ends, by epoch.
        rates: Learning rate in every batch.
    """

    def __init__(self, epochs: tuple[int, ...], stop: tuple[int, int] | None) -> None:
        self.epochs, self.stop = epochs, stop
        self.before: dict[int, dict[str, torch.Tensor]] = {}
        self.after: dict[int, dict[str, torch.Tensor]] = {}
        self.rates: list[float] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        if trainer.is_last_batch and trainer.current_epoch in self.epochs:
            with torch.no_grad():
                for value in module.state_dict().values():
                    if value.is_floating_point():
                        value.mul_(3.0)
                module.task.head.classifier[-1].bias[2] += 1e6
            for entry in trainer.optimizers[0].state.values():
                entry["exp_avg"].fill_(7.0)
        if (trainer.current_epoch, batch_idx) == self.stop:
            trainer.save_checkpoint(trainer.checkpoint_callback.dirpath + "/last.ckpt")
            raise Stop

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[-1]["lr"])

    def on_train_start(self, trainer, module) -> None:
        self.before[-1] = state_of(trainer, module)

    def on_validation_start(self, trainer, module) -> None:
        self.before[trainer.current_epoch] = state_of(trainer, module)

    def on_train_epoch_end(self, trainer, module) -> None:
        self.after[trainer.current_epoch] = state_of(trainer, module)


def run(monkeypatch, folder, *overrides: str, epochs=(), stop=None) -> tuple[Sabotage, Any]:
    """Train with a callback that damages the model before the validation of some epochs."""
    watch = Sabotage(epochs, stop)
    return watch, fit_watched(monkeypatch, folder, config(*RUN, *overrides), watch)


@pytest.mark.parametrize("more", [(), TEACHER], ids=["mcc", "teacher"])
def test_a_collapsed_model_is_rolled_back_to_the_last_good_validation(
    more, tmp_path, monkeypatch, capsys
) -> None:
    watch, report = run(monkeypatch, tmp_path, *more, epochs=(2,))
    good, bad = watch.before[1], watch.before[2]
    changed = {name for name in good if not torch.equal(good[name], bad[name])}
    assert any(name.startswith("optimizer.") for name in changed)
    assert any("running_mean" in name for name in changed)
    assert not more or any(name.startswith("teacher.") for name in changed)
    assert same(watch.after[2], good)
    assert not same(watch.after[3], good)  # training continues
    assert (
        "rolled back 1 time(s), see callbacks.rollback: after epoch 3 to epoch 2"
        in (report["notes"])
    )
    printed = [line for line in capsys.readouterr().out.splitlines() if "roll-back" in line]
    assert len(printed) == 1
    assert "roll-back 1 of at most 3: after epoch 3 the model predicts 10% of" in printed[0]
    assert printed[0].endswith("continuing from epoch 2")


@pytest.mark.slow
def test_the_methods_regain_their_strength_and_the_rates_continue(tmp_path, monkeypatch) -> None:
    used: list[float] = []
    original = MCC.strength

    def strength(self, ctx):
        value = original(self, ctx)
        used.append(value)
        return value

    settings = ("method.mcc.ramp=none", "method.mcc.weight=0.5", "callbacks.adversary_monitor=null",
                "callbacks.rollback.ramp_steps=3")  # fmt: skip
    plain, _ = run(monkeypatch, tmp_path / "plain", *settings)
    monkeypatch.setattr(MCC, "strength", strength)
    watch, _ = run(monkeypatch, tmp_path / "rolled", *settings, epochs=(1,))
    ramp = [0.5 * math.sin(math.pi * k / 6) for k in range(3)]
    assert used == pytest.approx([0.5] * 6 + ramp + [0.5] * 3)
    assert watch.rates == plain.rates


@pytest.mark.slow
def test_a_run_without_a_collapse_is_the_same_without_the_callback(tmp_path, monkeypatch) -> None:
    _, with_it = run(monkeypatch, tmp_path / "with")
    _, without = run(monkeypatch, tmp_path / "without", "callbacks.rollback=null")
    assert same(weights(tmp_path / "with" / LAST), weights(tmp_path / "without" / LAST))
    assert with_it["metrics"] == without["metrics"]
    assert with_it["notes"] == without["notes"]


@pytest.mark.slow
@pytest.mark.parametrize("stop", [(1, 0), (2, 1), (3, 0), (3, 1)])
def test_a_run_resumed_around_a_roll_back_equals_an_uninterrupted_one(
    stop, tmp_path, monkeypatch
) -> None:
    _, whole = run(monkeypatch, tmp_path / "whole", epochs=(1, 2))
    run(monkeypatch, tmp_path / "cut", epochs=(1, 2), stop=stop)
    _, cut = run(monkeypatch, tmp_path / "cut", "resume=auto", epochs=(1, 2))
    assert same(weights(tmp_path / "whole" / LAST), weights(tmp_path / "cut" / LAST))
    assert cut["metrics"] == whole["metrics"]
    assert cut["notes"] == whole["notes"]
    assert any("rolled back" in note for note in cut["notes"])


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [2, 3])
def test_a_run_extended_at_the_end_of_an_epoch_equals_a_longer_one(
    epochs, tmp_path, monkeypatch
) -> None:
    """Such a checkpoint contains no second copy of the weights."""
    settings = ("scheduler=constant", "method.mcc.ramp=none", "trainer.max_epochs=4")
    run(monkeypatch, tmp_path / "whole", *settings, epochs=(2,))
    run(monkeypatch, tmp_path / "cut", *settings, f"trainer.max_epochs={epochs}", epochs=(2,))
    stored = torch.load(tmp_path / "cut" / LAST, weights_only=True)["callbacks"]["Rollback"]
    assert stored["current"]
    assert stored["copy"] is None
    last = f"resume={tmp_path / 'cut' / LAST}"
    run(monkeypatch, tmp_path / "cut", *settings, last, epochs=(2,))
    assert same(weights(tmp_path / "whole" / LAST), weights(tmp_path / "cut" / LAST))


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [(2,), (3,)])
@pytest.mark.parametrize("rule", ["bnm", "source_val", "last"])
def test_the_selected_model_is_the_one_that_was_scored(epochs, rule, tmp_path, monkeypatch) -> None:
    """The collapsed model is not saved, and the restored one keeps its own score."""
    watch, report = run(monkeypatch, tmp_path, f"selection={rule}", epochs=epochs)
    chosen = report["selection"]
    stored = weights(tmp_path / chosen["checkpoint"])
    if rule == "last":
        assert same(stored, {k: watch.after[3][k] for k in stored})
    else:
        assert chosen["epoch"] not in epochs
        assert same(stored, {k: watch.before[chosen["epoch"]][k] for k in stored})


@pytest.mark.slow
def test_a_restored_model_is_selected_with_its_own_score(tmp_path, monkeypatch) -> None:
    """Only the second epoch is saved, so the restored model is new to the selection."""
    watch, report = run(
        monkeypatch, tmp_path, "trainer.max_epochs=2", "checkpointing.every_n_epochs=2",
        "selection=source_val", epochs=(1,),
    )  # fmt: skip
    stored = weights(tmp_path / report["selection"]["checkpoint"])
    assert same(stored, {k: watch.before[0][k] for k in stored})
    with (tmp_path / "metrics.csv").open() as file:
        values = [float(row["source/val/acc"]) for row in csv.DictReader(file)
                  if row["source/val/acc"]]  # fmt: skip
    assert values[0] != values[1]
    assert report["selection"]["value"] == pytest.approx(values[0])


@pytest.mark.slow
def test_a_bad_model_is_not_selected_for_a_high_score(tmp_path, monkeypatch) -> None:
    original = Validators.score
    values = iter([(1.0, 1.0), (1.0, 2.0), (0.1, 9.0), (1.0, 1.5)])

    def score(self, outputs, mix=None):
        predicted, value = next(values)
        mine = {"validator/predicted": predicted, "validator/floored/bnm": value}
        return {**original(self, outputs), **mine}

    monkeypatch.setattr(Validators, "score", score)
    watch, report = run(monkeypatch, tmp_path, "selection=bnm")
    assert (report["selection"]["epoch"], report["selection"]["value"]) == (1, 2.0)
    stored = weights(tmp_path / report["selection"]["checkpoint"])
    assert same(stored, {k: watch.before[1][k] for k in stored})


@pytest.mark.slow
def test_roll_backs_end_after_max_times(tmp_path, monkeypatch) -> None:
    epochs = (1, 2, 3)
    watch, report = run(monkeypatch, tmp_path, "callbacks.rollback.max_times=2", epochs=epochs)
    assert same(watch.after[1], watch.before[0])
    assert same(watch.after[2], watch.before[0])
    assert same(watch.after[3], watch.before[3])
    (note,) = [note for note in report["notes"] if "rolled back" in note]
    assert note.endswith("2 time(s), see callbacks.rollback: after epoch 2 to epoch 1, "
                         "after epoch 3 to epoch 1")  # fmt: skip


@pytest.mark.slow
def test_the_average_of_the_weights_is_restored_too(tmp_path, monkeypatch) -> None:
    averages: dict[int, dict[str, torch.Tensor]] = {}

    def record(self, trainer, module) -> None:
        state = self._average_model.state_dict()
        averages[trainer.current_epoch] = {k: v.clone() for k, v in state.items()}

    monkeypatch.setattr(Averaging, "on_train_epoch_end", record)
    _, report = run(
        monkeypatch, tmp_path, "callbacks=ema", "callbacks.weight_averaging.decay=0.5",
        "callbacks.adversary_monitor.patience=100", epochs=(2,),
    )  # fmt: skip
    assert report["notes"][-1].endswith("after epoch 4 to epoch 3")  # the average follows later
    assert same(averages[3], averages[2])
    assert not same(averages[2], averages[1])


@pytest.mark.slow
@pytest.mark.parametrize(("predicted", "epochs"), [
    ([0.7, 1.0, 0.61, 0.8], []), ([0.7, 1.0, 0.59, 0.8], [2]), ([0.5, 0.9, 0.6, 0.53], [3]),
    ([0.0, 0.9, 0.8, 0.9], []),
])  # fmt: skip
def test_a_drop_is_measured_from_the_most_classes_of_a_good_model(
    predicted, epochs, tmp_path, monkeypatch
) -> None:
    """A model that has collapsed before there was a good one cannot be replaced."""
    original, values = Validators.score, iter(predicted)

    def score(self, outputs, mix=None):
        return {**original(self, outputs), "validator/predicted": next(values)}

    monkeypatch.setattr(Validators, "score", score)
    _, report = run(monkeypatch, tmp_path, "callbacks.rollback.max_drop=0.4")
    notes = [note.partition(": ")[2] for note in report["notes"] if "rolled back" in note]
    assert notes == [f"after epoch {k + 1} to epoch {k}" for k in epochs]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        ([], True),
        (["model=source_free", "method=[mcc]", "init={trained}"], False),
        (
            [
                "model=domain_adaptation",
                "method=[adda]",
                "method.adda.pretrain=0",
                "optimizer.lr=1e-4",
            ],
            False,
        ),
        (["model=domain_adaptation", "method=[adda]", "method.adda.pretrain=1"], True),
    ],
)
def test_a_low_source_accuracy_is_a_collapse_while_the_source_is_learned(
    settings, counts, trained, tmp_path, monkeypatch
) -> None:
    original, values = Validators.score, iter([0.8, 0.9, 0.7, 0.85])

    def score(self, outputs, mix=None):
        return {**original(self, outputs), "validator/source_val": next(values),
                "validator/predicted": 1.0}  # fmt: skip

    monkeypatch.setattr(Validators, "score", score)
    more = [setting.format(trained=trained) for setting in settings]
    _, report = run(monkeypatch, tmp_path, *more, "callbacks.validators.min_source_ratio=0.9")
    notes = [note.partition(": ")[2] for note in report["notes"] if "rolled back" in note]
    assert notes == (["after epoch 3 to epoch 2"] if counts else [])


@pytest.mark.slow
@pytest.mark.parametrize("model", [
    ["model=source_only"], ["model=joint_bn"], ["model=domain_adaptation", "method=[adabn]"],
])  # fmt: skip
def test_nothing_is_copied_without_a_method_that_adds_a_loss(model, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tl_lightning.callbacks.rollback._copied", lambda *_: pytest.fail("copied"))
    training.fit(config(*RUN[1:], *model), tmp_path)


@pytest.mark.slow
def test_the_model_before_training_can_be_restored(trained, tmp_path, monkeypatch, capsys) -> None:
    start = (f"backbone.checkpoint={trained}", "head_init=probe", "selection=bnm")
    watch, report = run(monkeypatch, tmp_path, *start, epochs=(0,))
    assert same(watch.after[0], watch.before[-1])
    assert "continuing from the model before training" in capsys.readouterr().out
    assert any("after epoch 1 to the model before training" in one for one in report["notes"])


def test_runs_with_other_settings_are_in_another_group() -> None:
    groups = {group_of(validation.check(config(*RUN, f"callbacks.rollback.max_times={times}")))
              for times in (0, 1)}  # fmt: skip
    assert len(groups) == 2


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("max_drop=0", r"rollback.max_drop=0 is not in \(0, 1\]; set .*=0.4, or .*=null to turn"),
        ("max_drop=1.5", r"rollback.max_drop=1.5 is not in \(0, 1\]"),
        ("max_times=-1", r"rollback.max_times=-1 is below 0; set callbacks.rollback.max_times=3"),
        ("ramp_steps=-5", r"ramp_steps=-5 is below 0; set callbacks.rollback.ramp_steps=100"),
    ],
)
def test_settings_out_of_range_are_an_error(setting, message) -> None:
    key, value = setting.split("=")
    with pytest.raises(ConfigError, match=message):
        validation.check(config(f"callbacks.rollback.{setting}"))
    params = {"max_drop": 0.4, "max_times": 3, "ramp_steps": 100, key: float(value)}
    with pytest.raises(ConfigError, match=r"callbacks.rollback\."):
        Rollback(**params)
