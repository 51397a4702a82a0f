"""Error messages for failures of the environment."""

from __future__ import annotations

import errno
from datetime import timedelta

import pytest
import torch
from PIL import Image

from helpers import config
from tl_lightning.config.validation import check as validation
from tl_lightning.data.io.images import open_image
from tl_lightning.distributed.strategy import with_timeout
from tl_lightning.errors import ConfigError, DataError, TrainingError
from tl_lightning.models import FineTuning
from tl_lightning.training import fit as training
from tl_lightning.training.failures import explanation_of
from tl_lightning.training.trainer import make_trainer

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


@pytest.mark.slow
@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(CPU)]
)
def test_out_of_memory_names_half_the_batch(error, monkeypatch, tmp_path) -> None:
    message = run_with(monkeypatch, tmp_path, error)
    assert message.startswith("out of memory on cpu with data.batch_size=16; set data.batch_size=8")
    assert "trainer.accumulate_grad_batches=2" in message
    assert "resume=null" in message


def test_out_of_memory_with_a_batch_of_one() -> None:
    cfg = validation.check(config("data.batch_size=1"))
    assert "data.batch_size=1; use a smaller backbone" in str(explanation_of(MemoryError(), cfg))


@pytest.mark.parametrize(("text", "hint"), [(ALIVE, ""), (KILLED, ""), (BUS, "df -h /dev/shm")])
def test_dead_loader_worker(text, hint) -> None:
    cfg = validation.check(config("data.num_workers=4"))
    message = str(explanation_of(RuntimeError(text), cfg))
    assert message.startswith("a data loader worker died (DataLoader worker (pid")
    assert "set data.num_workers=2 and resume=auto to continue" in message
    assert hint in message


def test_unavailable_mount(monkeypatch, tmp_path) -> None:
    error = OSError(errno.ESTALE, "Stale file handle", "/data/x.bin")
    assert run_with(monkeypatch, tmp_path, error) == (
        "cannot read /data/x.bin: Stale file handle; check that its disk or mount is available, "
        "then set resume=auto to continue"
    )


def test_image_on_an_unavailable_mount_is_not_reported_as_broken(monkeypatch, tmp_path) -> None:
    def unavailable(source, **settings):
        raise OSError(errno.EIO, "Input/output error", str(source))

    (tmp_path / "x.jpg").write_bytes(b"\xff\xd8")
    monkeypatch.setattr(Image, "open", unavailable)
    with pytest.raises(DataError, match=r"x\.jpg: Input/output error; check that its disk or mou"):
        open_image(tmp_path / "x.jpg")


def test_rank_that_does_not_respond() -> None:
    cfg = validation.check(config("trainer.timeout_s=60"))
    text = "[../gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 60000ms for recv"
    message = str(explanation_of(RuntimeError(text), cfg))
    assert message.startswith("another rank did not respond within trainer.timeout_s=60 (")
    assert "set resume=auto to continue, or trainer.timeout_s=<seconds>" in message


@pytest.mark.slow
def test_other_errors_keep_their_traceback(monkeypatch, tmp_path) -> None:
    cfg = validation.check(config())
    for error in (RuntimeError("shape"), OSError(errno.ENOENT, "no"), ValueError("out of memory")):
        assert explanation_of(error, cfg) is None
    monkeypatch.setattr(FineTuning, "losses", lambda self, batch: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        training.fit(config("model=source_only"), tmp_path)


def test_timeout_is_passed_to_ddp() -> None:
    for name in ("ddp", "ddp_find_unused_parameters_true"):
        strategy = with_timeout(name, 7.0)
        assert strategy._timeout == timedelta(seconds=7)
        assert strategy._ddp_kwargs.get("find_unused_parameters", False) is ("unused" in name)
    assert with_timeout("ddp", None) == "ddp"
    assert with_timeout("single_device", 7.0) == "single_device"
    with pytest.raises(ConfigError, match=r"trainer.timeout_s=-1 is not a number above 0 or null"):
        validation.check(config("trainer.timeout_s=-1"))


def test_timeout_is_passed_to_the_automatic_strategy(tmp_path) -> None:
    settings = validation.check(config("trainer.devices=2", "trainer.timeout_s=7"))
    assert settings.trainer.strategy == "auto"
    trainer = make_trainer(settings.trainer, tmp_path, logger=False)
    assert trainer.strategy._timeout == timedelta(seconds=7)
