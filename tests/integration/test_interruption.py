"""A run that a signal has cut at any place goes on as if nothing had been, bit for bit."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from helpers import config
from tl_lightning.callbacks.nan_guard import FiniteLoss
from tl_lightning.errors import TrainingError
from tl_lightning.selection.collapse import WORST
from tl_lightning.training import fit as training
from tl_lightning.utils.signals import signals

EXTRA = ("selection=bnm", "trainer.max_epochs=3", "backbone.channel_dropout=0.2")
EMA = ("callbacks=ema", "callbacks.health.patience=100", "callbacks.average.decay=0.5")
STAGES = ("model=domain_adaptation", "adapter=[mcd]")
TWIN = ("model=domain_adaptation", "adapter=[self_training]")


class Kill(L.Callback):
    """Sends this process a signal the ``count``-th time that a hook of an epoch is called."""

    def __init__(self, hook: str, epoch: int, count: int, number: int) -> None:
        self.left = count

        def strike(trainer: L.Trainer, *_: Any) -> None:
            if trainer.current_epoch == epoch and trainer.state.fn == "fit":
                self.left -= 1
                if self.left == 0:
                    os.kill(os.getpid(), number)

        setattr(self, hook, strike)


def cut(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    where: tuple[str, int, int],
    *overrides: str,
    number: int = signal.SIGTERM,
) -> BaseException:
    """Fit until a signal ends it; return how it ended."""
    honest: Any = training.build

    def build(*arguments: Any) -> Any:
        parts = honest(*arguments)
        parts.trainer.callbacks.insert(0, Kill(*where, number))
        return parts

    with monkeypatch.context() as patched:
        patched.setattr(training, "build", build)
        with pytest.raises((SystemExit, KeyboardInterrupt)) as caught:
            training.fit(config(*overrides), folder)
    return caught.value


def plain(value: Any, folder: Path) -> Any:
    """Return a checkpoint's content so that two can be compared, without their folders' names."""
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
    found: dict[str, Any] = plain(stored, folder)
    return found


def assert_same_run(whole: Path, resumed: Path) -> None:
    one, two = content(whole), content(resumed)
    assert one.keys() == two.keys()
    for key in one:
        assert one[key] == two[key], key
    assert (whole / "metrics.csv").read_text() == (resumed / "metrics.csv").read_text()
    kept = [{p.name for p in (f / "checkpoints").glob("bnm-*")} for f in (whole, resumed)]
    assert kept[0] == kept[1]


PLACES = [
    ("on_train_batch_start", 0, 1), ("on_train_batch_start", 1, 2), ("on_train_batch_start", 1, 3),
    ("on_train_batch_end", 2, 3), ("on_validation_batch_start", 0, 1),
    ("on_validation_batch_start", 1, 2), ("on_validation_batch_end", 2, 1),
    ("on_validation_end", 1, 1), ("on_train_epoch_end", 0, 1), ("on_train_epoch_start", 1, 1),
    ("on_train_epoch_end", 2, 1),
]  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    made: dict[tuple[str, ...], tuple[Path, dict[str, Any]]] = {}

    def fit(*overrides: str) -> tuple[Path, dict[str, Any]]:
        if overrides not in made:
            folder = tmp_path_factory.mktemp("whole")
            made[overrides] = folder, training.fit(config(*overrides), folder)
        return made[overrides]

    return fit


def check(monkeypatch, tmp_path, uninterrupted, where, *overrides) -> None:
    folder, report = uninterrupted(*overrides)
    end = cut(monkeypatch, tmp_path, where, *overrides)
    assert isinstance(end, SystemExit)
    assert end.code == 143
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()
    resumed = training.fit(config(*overrides, "resume=auto"), tmp_path)
    assert_same_run(folder, tmp_path)
    assert resumed["metrics"] == report["metrics"]
    assert resumed["selection"]["value"] == report["selection"]["value"]


@pytest.mark.parametrize("where", PLACES)
def test_cut_anywhere_and_resumed_is_the_same_run(
    where, tmp_path, monkeypatch, uninterrupted
) -> None:
    check(monkeypatch, tmp_path, uninterrupted, where, *EXTRA)


@pytest.mark.long
@pytest.mark.parametrize("settings", [EMA, STAGES, TWIN])
@pytest.mark.parametrize("where", [PLACES[1], PLACES[5], PLACES[8]])
def test_what_else_a_run_carries_goes_on_too(
    settings, where, tmp_path, monkeypatch, uninterrupted
) -> None:
    check(monkeypatch, tmp_path, uninterrupted, where, *EXTRA, *settings)


def test_gradients_that_add_up_are_not_cut_in_half(tmp_path, monkeypatch, uninterrupted) -> None:
    settings = (*EXTRA, "trainer.accumulate_grad_batches=2", "data.steps_per_epoch=5")
    check(monkeypatch, tmp_path, uninterrupted, ("on_train_batch_start", 1, 1), *settings)
    assert content(tmp_path)["global_step"] == 9


def test_twice_cut_is_cut_once(tmp_path, monkeypatch, uninterrupted) -> None:
    folder, report = uninterrupted(*EXTRA)
    cut(monkeypatch, tmp_path, ("on_train_batch_start", 0, 2), *EXTRA)
    cut(monkeypatch, tmp_path, ("on_validation_batch_end", 0, 1), *EXTRA, "resume=auto")
    resumed = training.fit(config(*EXTRA, "resume=auto"), tmp_path)
    assert_same_run(folder, tmp_path)
    assert resumed["metrics"] == report["metrics"]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGUSR1, 143), (signal.SIGTERM, 143), (signal.SIGINT, None)]
)
def test_what_each_signal_ends_with(number, code, tmp_path, monkeypatch) -> None:
    before = signal.getsignal(number)
    end = cut(monkeypatch, tmp_path, PLACES[1], *EXTRA, number=number)
    if code is None:
        assert isinstance(end, KeyboardInterrupt)
    else:
        assert isinstance(end, SystemExit)
        assert end.code == code
    stored = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert stored["global_step"] == 5  # of three a epoch: the step at hand was finished
    assert signal.getsignal(number) == before
    assert not signals.gentle


def test_a_signal_while_nothing_trains_ends_at_once(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(training, "build", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as caught:
        training.fit(config(), tmp_path)
    assert caught.value.code == 143
    assert not (tmp_path / "checkpoints").exists()


def test_lightning_takes_no_signal_and_ours_leave_sigusr2_alone(tmp_path) -> None:
    seen = {}
    honest = L.Callback.on_train_start

    class Look(L.Callback):
        def on_train_start(self, trainer, pl_module) -> None:
            for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
                seen[number] = signal.getsignal(number)

    assert honest
    cfg = config("trainer.max_epochs=1")
    build = training.build

    def built(*arguments):
        parts = build(*arguments)
        parts.trainer.callbacks.append(Look())
        return parts

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(training, "build", built)
        training.fit(cfg, tmp_path)
    assert seen[signal.SIGTERM] == seen[signal.SIGUSR1] == signals._handle
    assert seen[signal.SIGUSR2] == signal.SIG_DFL


class AtTheTest(L.Callback):
    """Does something as the chosen model is tested."""

    def __init__(self, do: Any) -> None:
        self.do = do

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.do()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_chosen_model_is_tested_ends_as_any_other(number, tmp_path) -> None:
    strike = AtTheTest(lambda: os.kill(os.getpid(), number))
    with pytest.raises((SystemExit, KeyboardInterrupt)) as caught:
        training.fit(config("trainer.max_epochs=1"), tmp_path, watching=[strike])
    assert isinstance(caught.value, KeyboardInterrupt) == (number == signal.SIGINT)
    assert getattr(caught.value, "code", 143) == 143


def test_what_dies_while_the_chosen_model_is_tested_is_a_sentence_too(tmp_path) -> None:
    def fail() -> None:
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")

    with pytest.raises(TrainingError, match="a loader process died"):
        training.fit(config("trainer.max_epochs=1"), tmp_path, watching=[AtTheTest(fail)])


class Late(L.Callback):
    """Leaves a batch out, and finds the kept model collapsed, after it was kept."""

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        skips = next(one for one in trainer.callbacks if isinstance(one, FiniteLoss))  # type: ignore[attr-defined]
        skips.skipped.append({"epoch": 1, "batch": 0, "files": {"source": ["a.png"]}})
        trainer.checkpoint_callback._demote()  # type: ignore[union-attr]


def test_the_report_knows_what_came_after_the_chosen_model(tmp_path) -> None:
    """The test loads the checkpoint of the chosen model, and with it what was known then."""
    chosen = config("trainer.max_epochs=1", "selection=bnm")
    found = training.fit(chosen, tmp_path, watching=[Late()])
    assert any("1 batches were left out" in note for note in found["notes"])
    assert any("every epoch counted as collapsed" in note for note in found["notes"])
    assert found["selection"]["value"] < WORST + 2
