"""A run interrupted by a signal at any point is resumed bit-identically."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from helpers import config
from tl_lightning.callbacks.nan_guard import NaNGuard
from tl_lightning.errors import TrainingError
from tl_lightning.selection.collapse import WORST
from tl_lightning.training import fit as training
from tl_lightning.utils.signals import signals

EXTRA = ("selection=bnm", "trainer.max_epochs=3", "backbone.channel_dropout=0.2")
EMA = (
    "callbacks=ema",
    "callbacks.adversary_monitor.patience=100",
    "callbacks.weight_averaging.decay=0.5",
)
STAGES = ("model=domain_adaptation", "method=[mcd]")
TEACHER = ("model=domain_adaptation", "method=[self_training]")


class Kill(L.Callback):
    """Sends this process a signal at the ``count``-th call of a hook in an epoch."""

    def __init__(self, hook: str, epoch: int, count: int, number: int) -> None:
        self.remaining = count

        def kill(trainer: L.Trainer, *_: Any) -> None:
            if trainer.current_epoch == epoch and trainer.state.fn == "fit":
                self.remaining -= 1
                if self.remaining == 0:
                    os.kill(os.getpid(), number)

        setattr(self, hook, kill)


def interrupt(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    where: tuple[str, int, int],
    *overrides: str,
    number: int = signal.SIGTERM,
) -> BaseException:
    """Fit until a signal interrupts it; return the exception."""
    original: Any = training.build

    def build(*arguments: Any) -> Any:
        parts = original(*arguments)
        parts.trainer.callbacks.insert(0, Kill(*where, number))
        return parts

    with monkeypatch.context() as patched:
        patched.setattr(training, "build", build)
        with pytest.raises((SystemExit, KeyboardInterrupt)) as caught:
            training.fit(config(*overrides), folder)
    return caught.value


def plain(value: Any, folder: Path) -> Any:
    """Return the content of a checkpoint in comparable form, without its folder name."""
    if isinstance(value, dict):
        return {plain(k, folder): plain(v, folder) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, folder) for item in value]
    if isinstance(value, torch.Tensor):
        return str(value.dtype), value.tolist()
    return value.replace(str(folder.resolve()), "") if isinstance(value, str) else value


def content(folder: Path) -> dict[str, Any]:
    stored = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    stored["hyper_parameters"]["config"].pop("resume")
    result: dict[str, Any] = plain(stored, folder)
    return result


def assert_same_run(whole: Path, resumed: Path) -> None:
    one, two = content(whole), content(resumed)
    assert one.keys() == two.keys()
    for key in one:
        assert one[key] == two[key], key
    assert (whole / "metrics.csv").read_text() == (resumed / "metrics.csv").read_text()
    best = [{p.name for p in (f / "checkpoints").glob("bnm-*")} for f in (whole, resumed)]
    assert best[0] == best[1]


PLACES = [
    ("on_train_batch_start", 0, 1), ("on_train_batch_start", 1, 2), ("on_train_batch_start", 1, 3),
    ("on_train_batch_end", 2, 3), ("on_validation_batch_start", 0, 1),
    ("on_validation_batch_start", 1, 2), ("on_validation_batch_end", 2, 1),
    ("on_validation_end", 1, 1), ("on_train_epoch_end", 0, 1), ("on_train_epoch_start", 1, 1),
    ("on_train_epoch_end", 2, 1),
]  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    runs: dict[tuple[str, ...], tuple[Path, dict[str, Any]]] = {}

    def fit(*overrides: str) -> tuple[Path, dict[str, Any]]:
        if overrides not in runs:
            folder = tmp_path_factory.mktemp("whole")
            runs[overrides] = folder, training.fit(config(*overrides), folder)
        return runs[overrides]

    return fit


def check(monkeypatch, tmp_path, uninterrupted, where, *overrides) -> None:
    folder, report = uninterrupted(*overrides)
    end = interrupt(monkeypatch, tmp_path, where, *overrides)
    assert isinstance(end, SystemExit)
    assert end.code == 143
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()
    resumed = training.fit(config(*overrides, "resume=auto"), tmp_path)
    assert_same_run(folder, tmp_path)
    assert resumed["metrics"] == report["metrics"]
    assert resumed["selection"]["value"] == report["selection"]["value"]


@pytest.mark.slow
@pytest.mark.parametrize("where", PLACES)
def test_run_interrupted_anywhere_and_resumed_equals_uninterrupted_run(
    where, tmp_path, monkeypatch, uninterrupted
) -> None:
    check(monkeypatch, tmp_path, uninterrupted, where, *EXTRA)


@pytest.mark.long
@pytest.mark.parametrize("settings", [EMA, STAGES, TEACHER])
@pytest.mark.parametrize("where", [PLACES[1], PLACES[5], PLACES[8]])
def test_additional_state_is_resumed(settings, where, tmp_path, monkeypatch, uninterrupted) -> None:
    check(monkeypatch, tmp_path, uninterrupted, where, *EXTRA, *settings)


@pytest.mark.slow
def test_run_without_a_monitored_value_is_resumed(tmp_path, monkeypatch, uninterrupted) -> None:
    check(monkeypatch, tmp_path, uninterrupted, PLACES[1], *EXTRA, "selection=last")


@pytest.mark.slow
def test_accumulated_gradients_are_not_lost(tmp_path, monkeypatch, uninterrupted) -> None:
    settings = (*EXTRA, "trainer.accumulate_grad_batches=2", "data.steps_per_epoch=5")
    check(monkeypatch, tmp_path, uninterrupted, ("on_train_batch_start", 1, 1), *settings)
    assert content(tmp_path)["global_step"] == 9


@pytest.mark.slow
def test_run_interrupted_twice_equals_uninterrupted(tmp_path, monkeypatch, uninterrupted) -> None:
    folder, report = uninterrupted(*EXTRA)
    interrupt(monkeypatch, tmp_path, ("on_train_batch_start", 0, 2), *EXTRA)
    interrupt(monkeypatch, tmp_path, ("on_validation_batch_end", 0, 1), *EXTRA, "resume=auto")
    resumed = training.fit(config(*EXTRA, "resume=auto"), tmp_path)
    assert_same_run(folder, tmp_path)
    assert resumed["metrics"] == report["metrics"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGUSR1, 143), (signal.SIGTERM, 143), (signal.SIGINT, None)]
)
def test_exit_code_of_each_signal(number, code, tmp_path, monkeypatch) -> None:
    before = signal.getsignal(number)
    end = interrupt(monkeypatch, tmp_path, PLACES[1], *EXTRA, number=number)
    if code is None:
        assert isinstance(end, KeyboardInterrupt)
    else:
        assert isinstance(end, SystemExit)
        assert end.code == code
    stored = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert stored["global_step"] == 5  # of three per epoch: the current step was finished
    assert signal.getsignal(number) == before
    assert not signals.gentle


def test_signal_before_training_exits_immediately(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(training, "build", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as caught:
        training.fit(config(), tmp_path)
    assert caught.value.code == 143
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.slow
def test_lightning_installs_no_signal_handlers_and_sigusr2_is_not_handled(tmp_path) -> None:
    handlers = {}

    class Record(L.Callback):
        def on_train_start(self, trainer, pl_module) -> None:
            for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
                handlers[number] = signal.getsignal(number)

    cfg = config("trainer.max_epochs=1")
    original = training.build

    def build(*arguments):
        parts = original(*arguments)
        parts.trainer.callbacks.append(Record())
        return parts

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(training, "build", build)
        training.fit(cfg, tmp_path)
    assert handlers[signal.SIGTERM] == handlers[signal.SIGUSR1] == signals._handle
    assert handlers[signal.SIGUSR2] == signal.SIG_DFL


class OnTestStart(L.Callback):
    """Calls a function when testing of the chosen model starts."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.function()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_during_testing(number, tmp_path) -> None:
    kill = OnTestStart(lambda: os.kill(os.getpid(), number))
    with pytest.raises((SystemExit, KeyboardInterrupt)) as caught:
        training.fit(config("trainer.max_epochs=1"), tmp_path, callbacks=[kill])
    assert isinstance(caught.value, KeyboardInterrupt) == (number == signal.SIGINT)
    assert getattr(caught.value, "code", 143) == 143


@pytest.mark.slow
def test_killed_worker_during_testing_is_reported(tmp_path) -> None:
    def fail() -> None:
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")

    with pytest.raises(TrainingError, match="a data loader worker died"):
        training.fit(config("trainer.max_epochs=1"), tmp_path, callbacks=[OnTestStart(fail)])


class Late(L.Callback):
    """Skips a batch and demotes the best model after it was saved."""

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        guard = next(c for c in trainer.callbacks if isinstance(c, NaNGuard))  # type: ignore[attr-defined]
        guard.skipped.append({"epoch": 1, "batch": 0, "files": {"source": ["a.png"]}})
        trainer.checkpoint_callback._demote()  # type: ignore[union-attr]


@pytest.mark.slow
def test_report_contains_events_after_the_best_epoch(tmp_path) -> None:
    """Testing loads the best checkpoint, whose callback states are those of its epoch."""
    chosen = config("trainer.max_epochs=1", "selection=bnm")
    report = training.fit(chosen, tmp_path, callbacks=[Late()])
    assert any("1 batch(es) skipped" in note for note in report["notes"])
    assert any("every epoch counted as collapsed" in note for note in report["notes"])
    assert report["selection"]["value"] < WORST + 2
