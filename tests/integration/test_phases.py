"""Phases of fine-tuning across resumes and ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from conftest import TINY
from helpers import command, config, same, weights
from tl_lightning.config.validation import check as validation
from tl_lightning.training import build as building
from tl_lightning.training import fit as training

#: Every phase but the last lasts one epoch; the third freezes layers trained in the second.
STEPS = (
    "phases.steps=[{from:0,train:[head]},{from:1,train:[head,last:2],lr_factor:0.5},"
    "{from:2,train:[neck,block0],lr:0.002}]"
)
EXTRA = (
    STEPS, "backbone.channel_dropout=0.2", "method.dann.dropout=0.3", "scheduler.warmup=0.4",
    "layer_decay=0.5", "trainer.max_epochs=4",
)  # fmt: skip
LAST = "checkpoints/last.ckpt"


class Stop(Exception):
    """Raised to end a run abruptly."""


class StopAt(L.Callback):
    """Stop after a batch, or after the whole epoch if the batch is None."""

    def __init__(self, epoch: int, batch: int | None) -> None:
        self.place = (epoch, batch)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        if (trainer.current_epoch, batch_idx) == self.place:
            trainer.save_checkpoint(trainer.checkpoint_callback.dirpath + "/last.ckpt")
            raise Stop

    def on_train_epoch_start(self, trainer, module) -> None:
        # The previous epoch has already saved its checkpoint.
        if self.place == (trainer.current_epoch - 1, None):
            raise Stop


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    report = training.fit(config(*EXTRA), folder)
    return weights(folder / LAST), report["metrics"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "place",
    [(0, 1), (0, 2), (0, None), (1, 0), (1, 1), (1, None), (2, 0), (2, 1), (2, None), (3, 0)],
)
def test_resume_around_every_phase_change_equals_uninterrupted_run(
    place, uninterrupted, tmp_path, monkeypatch
) -> None:
    original: Any = training.build

    def build(*arguments):
        parts = original(*arguments)
        parts.trainer.callbacks.append(StopAt(*place))
        return parts

    monkeypatch.setattr(training, "build", build)
    with pytest.raises(Stop):
        training.fit(config(*EXTRA), tmp_path)
    monkeypatch.setattr(training, "build", original)
    resumed = training.fit(config(*EXTRA, "resume=auto"), tmp_path)
    assert same(uninterrupted[0], weights(tmp_path / LAST))
    assert resumed["metrics"] == uninterrupted[1]


RANKS = '''
import os, sys
import torch
import lightning as L
from helpers import config
from tl_lightning.training import fit as training
from pathlib import Path

class Spread(L.Callback):
    """Measure the largest difference of any weight or buffer between ranks after each step."""
    worst, steps = 0.0, 0
    def on_train_batch_end(self, trainer, module, *rest):
        own = torch.cat([v.double().flatten() for v in module.state_dict().values()])
        every = trainer.strategy.all_gather(own)
        assert every.shape[0] == 2
        Spread.worst = max(Spread.worst, float((every - every[0]).abs().max()))
        Spread.steps += 1

original = training.build
def build(*arguments):
    parts = original(*arguments)
    parts.trainer.callbacks.append(Spread())
    return parts
training.build = build
if __name__ == "__main__":
    training.fit(config(*sys.argv[2:]), Path(sys.argv[1]))
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"spread {Spread.worst} in {Spread.steps} steps")
'''


@pytest.mark.slow
@pytest.mark.parametrize("model", ["source_only", "dann"])
def test_two_ranks_equal_one_rank_through_three_phases(model, tmp_path) -> None:
    """The ranks stay identical, and equal one rank with twice the batch size."""
    import os
    import subprocess
    import sys

    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    common = [STEPS, f"model={model}", "backbone.norm=false", "optimizer=sgd",
              "trainer.max_epochs=3"]  # fmt: skip
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "data.batch_size=8"]
    tests = str(Path(__file__).resolve().parents[1])
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "two"), *two, *common],
        cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1",
             "PYTHONPATH": os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "spread 0.0 in 9 steps" in done.stdout
    assert done.stdout.count("phase 2 of 3 from epoch 1: training head, block1, neck (") == 1
    one = command("train", [*TINY, *common, "hydra.run.dir=one"], tmp_path)
    assert one.returncode == 0, one.stderr
    left, right = (weights(tmp_path / name / LAST) for name in ("two", "one"))
    start = building.build_module(validation.check(config(*common)), tuple("0123456789"))
    for name, value in right.items():
        assert torch.allclose(value, left[name], atol=1e-6), name
    for name, value in start.named_parameters():
        assert not torch.equal(value, right[name]), name
    metrics = [
        json.loads((tmp_path / n / "report.json").read_text())["metrics"] for n in ("two", "one")
    ]
    assert metrics[0] == pytest.approx(metrics[1], abs=1e-6)
