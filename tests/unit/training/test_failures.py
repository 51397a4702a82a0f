"""What goes wrong around a run is said in a sentence with what to type."""

from __future__ import annotations

import errno
from datetime import timedelta

import pytest
import torch
from PIL import Image

from helpers import config
from tl_lightning.config.validation import check as validation
from tl_lightning.data.io.images import open_picture
from tl_lightning.distributed.strategy import with_timeout
from tl_lightning.errors import ConfigError, DataError, TrainingError
from tl_lightning.models import FineTuning
from tl_lightning.training import fit as training
from tl_lightning.training.build import make_trainer
from tl_lightning.training.failures import explained

CPU = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: y"
ALIVE = "DataLoader worker (pid(s) 71) exited unexpectedly"
KILLED = "DataLoader worker (pid 71) is killed by signal: Killed."
BUS = "DataLoader worker (pid 71) is killed by signal: Bus error. It is possible that shared memory"


def run_with(monkeypatch, tmp_path, error: BaseException, *overrides: str) -> str:
    def losses(self, batch):
        raise error

    monkeypatch.setattr(FineTuning, "losses", losses)
    with pytest.raises((TrainingError, DataError)) as caught:
        training.fit(config("model=source_only", *overrides), tmp_path)
    assert caught.value.__cause__ is error
    return str(caught.value)


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(CPU)]
)
def test_out_of_memory_names_half_the_batch(error, monkeypatch, tmp_path) -> None:
    words = run_with(monkeypatch, tmp_path, error)
    assert words.startswith("out of memory on cpu with data.batch_size=16; type data.batch_size=8")
    assert "trainer.accumulate_grad_batches=2" in words


def test_a_batch_of_one_cannot_be_halved() -> None:
    cfg = validation.check(config("data.batch_size=1"))
    assert "type a smaller backbone" in str(explained(MemoryError(), cfg))


@pytest.mark.parametrize(("text", "more"), [(ALIVE, ""), (KILLED, ""), (BUS, "df -h /dev/shm")])
def test_a_dead_loader_process(text, more) -> None:
    cfg = validation.check(config())
    cfg["data"]["num_workers"] = 4
    words = str(explained(RuntimeError(text), cfg))
    assert words.startswith("a loader process died (DataLoader worker (pid")
    assert "type data.num_workers=2, and resume=auto to go on" in words
    assert more in words


def test_a_mount_that_is_away(monkeypatch, tmp_path) -> None:
    gone = OSError(errno.ESTALE, "Stale file handle", "/data/x.bin")
    words = run_with(monkeypatch, tmp_path, gone)
    assert words == (
        "cannot reach /data/x.bin: Stale file handle; see that its disk or mount answers, then "
        "type resume=auto to go on"
    )


def test_a_picture_on_a_mount_that_is_away_is_not_called_broken(monkeypatch, tmp_path) -> None:
    def away(source):
        raise OSError(errno.EIO, "Input/output error", str(source))

    monkeypatch.setattr(Image, "open", away)
    with pytest.raises(DataError, match=r"x\.jpg: Input/output error; see that its disk or mount"):
        open_picture(tmp_path / "x.jpg")


def test_a_rank_that_does_not_answer() -> None:
    cfg = validation.check(config("trainer.timeout_s=60"))
    text = "[../gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 60000ms for recv"
    words = str(explained(RuntimeError(text), cfg))
    assert words.startswith("another rank did not answer within trainer.timeout_s=60 (")
    assert "type resume=auto to go on" in words


def test_anything_else_keeps_its_traceback(monkeypatch, tmp_path) -> None:
    cfg = validation.check(config())
    for error in (RuntimeError("shape"), OSError(errno.ENOENT, "no"), ValueError("out of memory")):
        assert explained(error, cfg) is None
    monkeypatch.setattr(FineTuning, "losses", lambda self, batch: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        training.fit(config("model=source_only"), tmp_path)


def test_the_time_that_ranks_wait() -> None:
    for name in ("ddp", "ddp_find_unused_parameters_true"):
        strategy = with_timeout(name, 7.0)
        assert strategy._timeout == timedelta(seconds=7)
        assert strategy._ddp_kwargs.get("find_unused_parameters", False) is ("unused" in name)
    assert with_timeout("ddp", None) == "ddp"
    assert with_timeout("single_device", 7.0) == "single_device"
    with pytest.raises(ConfigError, match=r"trainer.timeout_s=-1 is no number of seconds above 0"):
        validation.check(config("trainer.timeout_s=-1"))


def test_ranks_that_nobody_named_a_strategy_for_wait_as_long(tmp_path) -> None:
    node = {**config()["trainer"], "devices": 2, "timeout_s": 7.0}
    assert node["strategy"] == "auto"
    trainer = make_trainer(config(), node, logger=False, default_root_dir=str(tmp_path))
    assert trainer.strategy._timeout == timedelta(seconds=7)
