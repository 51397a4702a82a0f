"""Two ranks stop at the same step, whoever got the signal, and none waits for ever."""

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

class Strike(L.Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if (trainer.global_rank, trainer.current_epoch, batch_idx) != (1, 0, 1):
            return
        if mode == "signal":
            os.kill(os.getpid(), signal.SIGTERM)
        if mode == "hang":
            time.sleep(600)

honest = training.build

def build(*arguments):
    parts = honest(*arguments)
    parts.trainer.callbacks.insert(0, Strike())
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
def test_a_signal_to_any_rank_stops_all_at_one_step(tmp_path) -> None:
    done = ranks(tmp_path, "cut", "signal")
    assert done.returncode == 143, done.stderr
    last = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 3
    for folder in ("cut", "whole"):
        done = ranks(tmp_path, folder, "")
        assert done.returncode == 0, done.stderr
    assert same(weights(last), weights(tmp_path / "whole" / "checkpoints" / "last.ckpt"))


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_rank_that_hangs_is_a_sentence(tmp_path) -> None:
    done = ranks(tmp_path, "hung", "hang", "trainer.timeout_s=20")
    assert done.returncode == 3, done.stderr
    assert "error: another rank did not answer within trainer.timeout_s=20" in done.stdout
