"""Interruption of two ranks: both stop at the same step, and none waits forever."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from conftest import REPO
from helpers import same, weights

SCRIPT = """
import os, signal, sys, time
import lightning as L
from helpers import config
from tl_lightning.training import fit as training
from tl_lightning.errors import TransferError

folder, mode, *more = sys.argv[1:]
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "resume=auto", *more)

class Interrupt(L.Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if (trainer.global_rank, trainer.current_epoch, batch_idx) != (1, 0, 1):
            return
        if mode == "signal":
            os.kill(os.getpid(), signal.SIGTERM)
        if mode == "hang":
            time.sleep(600)

original = training.build

def build(*arguments):
    parts = original(*arguments)
    parts.trainer.callbacks.insert(0, Interrupt())
    return parts

training.build = build
try:
    training.fit(config(*TWO), __import__("pathlib").Path(folder))
except TransferError as error:
    print("error:", error, flush=True)
    sys.exit(error.exit_code)
"""


def ranks(tmp_path, folder: str, mode: str, *more: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "ranks.py"
    script.write_text(SCRIPT)
    paths = os.pathsep.join(str(REPO / name) for name in ("src", "tests"))
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(script), str(tmp_path / folder), mode, *more],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=550, check=False,
    )  # fmt: skip


@pytest.mark.long
@pytest.mark.timeout(600)
def test_signal_to_one_rank_stops_all_at_the_same_step(tmp_path) -> None:
    done = ranks(tmp_path, "stopped", "signal")
    assert done.returncode == 143, done.stderr
    last = tmp_path / "stopped" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 3
    for folder in ("stopped", "whole"):
        done = ranks(tmp_path, folder, "")
        assert done.returncode == 0, done.stderr
    assert same(weights(last), weights(tmp_path / "whole" / "checkpoints" / "last.ckpt"))


@pytest.mark.long
@pytest.mark.timeout(600)
def test_hanging_rank_is_reported(tmp_path) -> None:
    done = ranks(tmp_path, "hung", "hang", "trainer.timeout_s=20")
    assert done.returncode == 3, done.stderr
    assert "error: another rank did not respond within trainer.timeout_s=20" in done.stdout
