"""Weight averaging: the average is validated, saved, loaded and resumed."""

from __future__ import annotations

from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from helpers import Stop, config, evaluated, fit_watched, same, weights
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
EMA_RUN = (
    "callbacks=ema",
    "callbacks.weight_averaging.decay=0.6",
    "callbacks.adversary_monitor.patience=100",
)
SWA_RUN = (
    "callbacks=swa",
    "callbacks.weight_averaging.start_epoch=1",
    "callbacks.adversary_monitor.patience=100",
)
SHORT = ("baselines=[]", "trainer.max_epochs=3", "model=source_only", "scheduler=constant")
RUNS = {"ema": EMA_RUN, "swa": SWA_RUN}


class Watch(L.Callback):
    """Records weights after every step and those that are validated; may stop the run."""

    def __init__(self, stop: tuple[int, int] | None = None) -> None:
        self.steps: list[tuple[int, dict[str, torch.Tensor]]] = []
        self.validated: list[dict[str, torch.Tensor]] = []
        self.stop = stop

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self.steps.append((trainer.current_epoch, copy_of(module)))
        if (trainer.current_epoch, batch_idx) == self.stop:
            trainer.save_checkpoint(trainer.checkpoint_callback.dirpath + "/last.ckpt")
            raise Stop

    def on_validation_batch_start(self, trainer, module, batch, batch_idx, dataloader_idx=0):
        if batch_idx == 0 and dataloader_idx == 0:
            self.validated.append(copy_of(module))


def copy_of(module: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def run(monkeypatch, folder, *overrides: str, stop=None) -> tuple[Watch, Any]:
    """Fit with a watch that runs after the other callbacks."""
    watch = Watch(stop)
    return watch, fit_watched(monkeypatch, folder, config(*overrides), watch)


def expected(kind: str, steps: list[tuple[int, dict[str, torch.Tensor]]]) -> dict[str, np.ndarray]:
    """Return the average computed independently, in float64."""
    history = [(epoch, {n: v.double().numpy() for n, v in w.items()}) for epoch, w in steps]
    if kind == "swa":
        ends = [w for (epoch, w), (after, _) in zip(history, [*history[1:], (99, {})], strict=True)
                if after != epoch and epoch >= 1]  # fmt: skip
        return {n: np.mean([w[n] for w in ends], axis=0) for n in ends[0]}
    mean = history[0][1]
    for _, now in history[1:]:
        mean = {n: 0.6 * mean[n] + 0.4 * now[n] for n in now}
    return mean


def close(actual: dict[str, torch.Tensor], target: dict[str, np.ndarray]) -> bool:
    floats = {n: v for n, v in actual.items() if v.is_floating_point()}
    return all(np.allclose(v.numpy(), target[n], rtol=1e-5, atol=1e-6) for n, v in floats.items())


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNS)
def test_average_equals_reference_in_validation_checkpoint_and_after_loading(
    kind, tmp_path, monkeypatch
) -> None:
    """The current weights are those of a run without averaging."""
    watch, report = run(monkeypatch, tmp_path / "a", *SHORT, *RUNS[kind], "optimizer.lr=0.01")
    plain, _ = run(monkeypatch, tmp_path / "p", *SHORT, "optimizer.lr=0.01")
    assert len(watch.steps) == 9
    assert same(watch.steps[-1][1], plain.steps[-1][1])
    target = expected(kind, watch.steps)
    last = weights(tmp_path / "a" / LAST)
    assert close(last, target)
    assert not close(watch.steps[-1][1], target)
    assert same(watch.validated[-1], last)
    path = tmp_path / "a" / report["selection"]["checkpoint"]
    assert same(loading.load(path).state_dict(), last)
    # The reported metrics are those of the average: testing the loaded model reproduces them.
    metrics = evaluation.evaluate(path, None, None)["metrics"]
    assert metrics == evaluated(report)


def test_run_tests_the_average(tmp_path, monkeypatch) -> None:
    """Lightning would overwrite it with the current weights."""
    tested: list[dict[str, torch.Tensor]] = []
    original = base.TransferModule.on_test_epoch_end

    def watch(self) -> None:
        tested.append(copy_of(self))
        original(self)

    monkeypatch.setattr(base.TransferModule, "on_test_epoch_end", watch)
    report = training.fit(config(*SHORT, *EMA_RUN, "selection=source_val"), tmp_path)
    assert same(tested[0], weights(tmp_path / report["selection"]["checkpoint"]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_average_is_the_model_before_start_epoch(kind, tmp_path, monkeypatch) -> None:
    settings = (*SHORT, *RUNS[kind], "callbacks.weight_averaging.start_epoch=2")
    watch, _ = run(monkeypatch, tmp_path, *settings)
    for epoch in (0, 1):
        assert same(watch.validated[epoch], watch.steps[3 * epoch + 2][1])
    if kind == "swa":  # the mean of one model
        assert same(watch.validated[2], watch.steps[-1][1])
    else:
        assert close(watch.validated[2], expected("ema", watch.steps[6:]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize("stop", [(0, 1), (1, 2), (2, 0)])
def test_resumed_equals_uninterrupted(kind, stop, tmp_path, monkeypatch) -> None:
    settings = (*SHORT, *RUNS[kind], "model=dann", "method.dann.dropout=0.3")
    _, whole = run(monkeypatch, tmp_path / "whole", *settings)
    run(monkeypatch, tmp_path / "stopped", *settings, stop=stop)
    _, resumed = run(monkeypatch, tmp_path / "stopped", *settings, "resume=auto")
    files = [torch.load(tmp_path / n / LAST, weights_only=True) for n in ("whole", "stopped")]
    for key in ("state_dict", "current_model_state", "averaging_state"):
        assert same(files[0][key], files[1][key]), key
    assert not same(files[0]["state_dict"], files[0]["current_model_state"])
    assert resumed["metrics"] == whole["metrics"]


@pytest.mark.slow
def test_interruption_during_validation_saves_both_sets_of_weights(tmp_path, monkeypatch) -> None:
    whole, _ = run(monkeypatch, tmp_path / "whole", *SHORT, *EMA_RUN, "trainer.max_epochs=1")
    original = base.TransferModule.validation_step

    def broken(self, *arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(base.TransferModule, "validation_step", broken)
    with pytest.raises(KeyboardInterrupt):
        training.fit(config(*SHORT, *EMA_RUN, "trainer.max_epochs=1"), tmp_path / "stopped")
    monkeypatch.setattr(base.TransferModule, "validation_step", original)
    paths = sorted((tmp_path / "stopped" / "checkpoints").glob("*.ckpt"))
    assert paths
    for path in paths:
        stored = torch.load(path, weights_only=True)
        assert same(stored["state_dict"], weights(tmp_path / "whole" / LAST))
        assert same(stored["current_model_state"], whole.steps[-1][1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNS)
def test_frozen_weights_stay_bit_identical(kind, tmp_path) -> None:
    settings = (*SHORT, *RUNS[kind], "model=feature_extraction", "regularizer=[l2_sp]")
    before = building.build_module(validation.check(config(*settings)), tuple("0123456789"))
    frozen = {n: v for n, v in copy_of(before).items() if n.startswith("backbone.")}
    training.fit(config(*settings), tmp_path)
    after = weights(tmp_path / LAST)
    assert same(frozen, {n: v for n, v in after.items() if n in frozen})
    assert "task.head.classifier.0.weight" in after


@pytest.mark.slow
def test_learning_rates_are_unaffected_by_averaging(tmp_path) -> None:
    states = []
    for name, more in (("plain", ()), ("swa", SWA_RUN)):
        settings = ("baselines=[]", "model=source_only", "trainer.max_epochs=3", *more)
        training.fit(config(*settings), tmp_path / name)
        stored = torch.load(tmp_path / name / LAST, weights_only=True)
        states.append([stored["lr_schedulers"], stored["optimizer_states"][0]["param_groups"]])
        header = (tmp_path / name / "metrics.csv").read_text().splitlines()[0]
        assert "lr-" in header
    assert states[0] == states[1]


def test_equal_values_stay_equal_and_counters_are_copied() -> None:
    x = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    mean = [x.clone()]
    for _ in range(20):
        move_towards(mean, [x], 0.1)
        move_towards(mean, [x], 1 / 3)
    assert torch.equal(mean[0], x)
    counters = [torch.tensor(3)]
    move_towards(counters, [torch.tensor(4)], 0.1)
    assert counters == [torch.tensor(4)]


def test_runs_with_and_without_averaging_are_different_groups() -> None:
    plain, averaged = (validation.check(config(*m)) for m in ((), EMA_RUN))
    assert group_of(plain) != group_of(averaged)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("callbacks=ema", "callbacks.weight_averaging.decay=1"),
            "callbacks.weight_averaging.decay=1 is not in [0",
        ),
        (
            ("callbacks=swa", "callbacks.weight_averaging.start_epoch=-1"),
            "start_epoch=-1 is below 0; set callbacks.weight_averaging.start_epoch=0",
        ),
        (("callbacks=swa",), "start_epoch=5 is after the last epoch of trainer.max_epochs=2"),
    ],
)
def test_invalid_settings_are_reported(overrides, message) -> None:
    with pytest.raises(ConfigError) as caught:
        validation.check(config(*overrides))
    assert message in str(caught.value)


def test_constructors_check_their_arguments() -> None:
    with pytest.raises(ConfigError, match=r"decay=1.0 is not in \[0, 1\)"):
        EMA(decay=1.0, start_epoch=0)
    with pytest.raises(ConfigError, match=r"start_epoch=-1 is below 0"):
        SWA(start_epoch=-1, every_step=False)
