"""Averages of the weights: what is validated, kept, loaded and resumed is the average."""

from __future__ import annotations

from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from helpers import config, evaluated, same, weights
from tl_lightning.callbacks.weight_averaging import EMA, SWA, move_towards
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import ConfigError
from tl_lightning.evaluation import evaluate as evaluation
from tl_lightning.evaluation import load as loading
from tl_lightning.models import base
from tl_lightning.training import build as building
from tl_lightning.training import fit as training
from tl_lightning.training.results import group_of

LAST = "checkpoints/last.ckpt"
EMA_RUN = ("callbacks=ema", "callbacks.average.decay=0.6", "callbacks.health.patience=100")
SWA_RUN = ("callbacks=swa", "callbacks.average.start_epoch=1", "callbacks.health.patience=100")
SHORT = ("bracket=[]", "trainer.max_epochs=3", "model=source_only", "scheduler=constant")
RUNS = {"ema": EMA_RUN, "swa": SWA_RUN}


class Stop(Exception):
    """Ends a run as a power cut would."""


class Watch(L.Callback):
    """Keeps the weights after every step and those that are validated; may end the run."""

    def __init__(self, stop: tuple[int, int] | None = None) -> None:
        self.steps: list[tuple[int, dict[str, torch.Tensor]]] = []
        self.validated: list[dict[str, torch.Tensor]] = []
        self.stop = stop

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self.steps.append((trainer.current_epoch, copied(module)))
        if (trainer.current_epoch, batch_idx) == self.stop:
            trainer.save_checkpoint(trainer.checkpoint_callback.dirpath + "/last.ckpt")
            raise Stop

    def on_validation_batch_start(self, trainer, module, batch, batch_idx, dataloader_idx=0):
        if batch_idx == 0 and dataloader_idx == 0:
            self.validated.append(copied(module))


def copied(module: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def run(monkeypatch, place, *overrides: str, stop=None) -> tuple[Watch, Any]:
    """Fit with a watch that sees what the other callbacks leave."""
    honest: Any = training.build
    watch, report = Watch(stop), None

    def build(*arguments):
        parts = honest(*arguments)
        parts.trainer.callbacks.insert(len(parts.trainer.callbacks) - 1, watch)
        return parts

    with monkeypatch.context() as patch:
        patch.setattr(training, "build", build)
        try:
            report = training.fit(config(*overrides), place)
        except Stop:
            assert stop is not None
    return watch, report


def expected(kind: str, steps: list[tuple[int, dict[str, torch.Tensor]]]) -> dict[str, np.ndarray]:
    """Return the average by hand, in float64."""
    told = [(epoch, {n: v.double().numpy() for n, v in w.items()}) for epoch, w in steps]
    if kind == "swa":
        ends = [w for (epoch, w), (after, _) in zip(told, [*told[1:], (99, {})], strict=True)
                if after != epoch and epoch >= 1]  # fmt: skip
        return {n: np.mean([w[n] for w in ends], axis=0) for n in ends[0]}
    mean = told[0][1]
    for _, now in told[1:]:
        mean = {n: 0.6 * mean[n] + 0.4 * now[n] for n in now}
    return mean


def close(found: dict[str, torch.Tensor], want: dict[str, np.ndarray]) -> bool:
    floats = {n: v for n, v in found.items() if v.is_floating_point()}
    return all(np.allclose(v.numpy(), want[n], rtol=1e-5, atol=1e-6) for n, v in floats.items())


@pytest.mark.parametrize("kind", RUNS)
def test_the_average_is_the_hand_computed_one_everywhere(kind, tmp_path, monkeypatch) -> None:
    """In validation, in the checkpoint, after load; the present weights go on as without it."""
    watch, report = run(monkeypatch, tmp_path / "a", *SHORT, *RUNS[kind], "optimizer.lr=0.01")
    plain, _ = run(monkeypatch, tmp_path / "p", *SHORT, "optimizer.lr=0.01")
    assert len(watch.steps) == 9
    assert same(watch.steps[-1][1], plain.steps[-1][1])
    want = expected(kind, watch.steps)
    last = weights(tmp_path / "a" / LAST)
    assert close(last, want)
    assert not close(watch.steps[-1][1], want)
    assert same(watch.validated[-1], last)
    place = tmp_path / "a" / report["selection"]["checkpoint"]
    assert same(loading.load(place).state_dict(), last)
    # The figures of the report are the average's: a test of the loaded model gives them again.
    found = evaluation.evaluate(place, None, None)["metrics"]
    assert found == evaluated(report)


def test_the_test_of_the_run_is_the_averages(tmp_path, monkeypatch) -> None:
    """Lightning would load the present weights over it."""
    tested: list[dict[str, torch.Tensor]] = []
    honest = base.TransferModule.on_test_epoch_end

    def watch(self) -> None:
        tested.append(copied(self))
        honest(self)

    monkeypatch.setattr(base.TransferModule, "on_test_epoch_end", watch)
    report = training.fit(config(*SHORT, *EMA_RUN, "selection=source_val"), tmp_path)
    assert same(tested[0], weights(tmp_path / report["selection"]["checkpoint"]))


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_before_it_starts_the_average_is_the_model(kind, tmp_path, monkeypatch) -> None:
    settings = (*SHORT, *RUNS[kind], "callbacks.average.start_epoch=2")
    watch, _ = run(monkeypatch, tmp_path, *settings)
    for epoch in (0, 1):
        assert same(watch.validated[epoch], watch.steps[3 * epoch + 2][1])
    if kind == "swa":  # one model alone is its mean
        assert same(watch.validated[2], watch.steps[-1][1])
    else:
        assert close(watch.validated[2], expected("ema", watch.steps[6:]))


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize("place", [(0, 1), (1, 2), (2, 0)])
def test_resumed_equals_uninterrupted(kind, place, tmp_path, monkeypatch) -> None:
    settings = (*SHORT, *RUNS[kind], "model=dann", "adapter.dann.dropout=0.3")
    _, whole = run(monkeypatch, tmp_path / "whole", *settings)
    run(monkeypatch, tmp_path / "cut", *settings, stop=place)
    _, resumed = run(monkeypatch, tmp_path / "cut", *settings, "resume=auto")
    files = [torch.load(tmp_path / n / LAST, weights_only=True) for n in ("whole", "cut")]
    for key in ("state_dict", "current_model_state", "averaging_state"):
        assert same(files[0][key], files[1][key]), key
    assert not same(files[0]["state_dict"], files[0]["current_model_state"])
    assert resumed["metrics"] == whole["metrics"]


def test_an_interruption_in_a_validation_keeps_both_sets_apart(tmp_path, monkeypatch) -> None:
    whole, _ = run(monkeypatch, tmp_path / "whole", *SHORT, *EMA_RUN, "trainer.max_epochs=1")
    honest = base.TransferModule.validation_step

    def broken(self, *arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(base.TransferModule, "validation_step", broken)
    with pytest.raises(KeyboardInterrupt):
        training.fit(config(*SHORT, *EMA_RUN, "trainer.max_epochs=1"), tmp_path / "cut")
    monkeypatch.setattr(base.TransferModule, "validation_step", honest)
    found = sorted((tmp_path / "cut" / "checkpoints").glob("*.ckpt"))
    assert found
    for place in found:
        stored = torch.load(place, weights_only=True)
        assert same(stored["state_dict"], weights(tmp_path / "whole" / LAST))
        assert same(stored["current_model_state"], whole.steps[-1][1])


@pytest.mark.parametrize("kind", RUNS)
def test_what_is_frozen_stays_bit_for_bit(kind, tmp_path) -> None:
    settings = (*SHORT, *RUNS[kind], "model=feature_extraction", "regularizer=[l2_sp]")
    before = building.build_module(validation.check(config(*settings)), tuple("0123456789"))
    kept = {n: v for n, v in copied(before).items() if n.startswith("backbone.")}
    training.fit(config(*settings), tmp_path)
    after = weights(tmp_path / LAST)
    assert same(kept, {n: v for n, v in after.items() if n in kept})
    assert "task.head.classifier.0.weight" in after


def test_learning_rates_are_those_without_it(tmp_path) -> None:
    columns = []
    for name, more in (("plain", ()), ("swa", SWA_RUN)):
        settings = ("bracket=[]", "model=source_only", "trainer.max_epochs=3", *more)
        training.fit(config(*settings), tmp_path / name)
        stored = torch.load(tmp_path / name / LAST, weights_only=True)
        columns.append([stored["lr_schedulers"], stored["optimizer_states"][0]["param_groups"]])
        header = (tmp_path / name / "metrics.csv").read_text().splitlines()[0]
        assert "lr-" in header
    assert columns[0] == columns[1]


def test_equal_values_stay_equal_and_counters_are_taken() -> None:
    x = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    mean = [x.clone()]
    for _ in range(20):
        move_towards(mean, [x], 0.1)
        move_towards(mean, [x], 1 / 3)
    assert torch.equal(mean[0], x)
    counters = [torch.tensor(3)]
    move_towards(counters, [torch.tensor(4)], 0.1)
    assert counters == [torch.tensor(4)]


def test_runs_with_and_without_are_no_seeds_of_one_another() -> None:
    plain, averaged = (validation.check(config(*m)) for m in ((), EMA_RUN))
    assert group_of(plain) != group_of(averaged)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("callbacks=ema", "callbacks.average.decay=1"), "callbacks.average.decay=1 is not in [0"),
        (("callbacks=swa", "callbacks.average.start_epoch=-1"), "start_epoch=-1 is below 0; type"),
        (("callbacks=swa",), "start_epoch=5 is after the last epoch of trainer.max_epochs=2"),
    ],
)
def test_words_of_faults(overrides, words) -> None:
    with pytest.raises(ConfigError) as caught:
        validation.check(config(*overrides))
    assert words in str(caught.value)


def test_the_classes_refuse_them_too() -> None:
    with pytest.raises(ConfigError, match=r"decay=1.0 is not in \[0, 1\)"):
        EMA(decay=1.0, start_epoch=0)
    with pytest.raises(ConfigError, match=r"start_epoch=-1 is below 0"):
        SWA(start_epoch=-1)
