"""Loss and accuracy are printed while training, with epochs counted from 1."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path

import pytest
from lightning.pytorch.callbacks.progress import rich_progress
from rich.console import Console

from helpers import config
from tl_lightning.training import fit as training


@pytest.mark.slow
@pytest.mark.parametrize("terminal", [False, True])
def test_every_epoch_has_its_loss_and_accuracy(
    terminal: bool, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(rich_progress, "get_console", lambda: Console(force_terminal=terminal))
    overrides = ["model=source_only", "data.target=null"]
    if terminal:
        bar = "tl_lightning.callbacks.console_log.ProgressBar"
        overrides.append(f"+callbacks.progress_bar._target_={bar}")
        monkeypatch.setenv("COLUMNS", "160")
    plain = config(*overrides)
    assert plain["trainer"]["max_epochs"] == 2
    report = training.fit(plain, tmp_path)
    output = capsys.readouterr().out
    lines = re.findall(r"epoch (\d)/2  train/loss \d\.\d+  source/val/loss \d\.\d+  source/val/acc",
                       output)  # fmt: skip
    assert lines == ["1", "2"]
    if terminal:
        assert "epoch 0" not in output.lower()
        assert re.search(r"epoch 2/2 .*loss: \d+\.\d+.*source/val/acc: \d\.\d+", output)
    with (tmp_path / "metrics.csv").open() as file:
        losses = [row["source/val/loss"] for row in csv.DictReader(file) if row["source/val/loss"]]
    assert len(losses) == 2
    assert all(0 < float(loss) < 2 * math.log(10) for loss in losses)
    assert "source/val/loss" not in report["metrics"]
