"""Helpers shared by the tests."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from omegaconf import OmegaConf

from tl_lightning.config.compose import compose
from tl_lightning.training import fit as training

REPO = Path(__file__).resolve().parents[1]


def config(*overrides: str) -> dict[str, Any]:
    """Return the resolved configuration for the tiny run plus overrides."""
    from conftest import TINY

    plain: Any = OmegaConf.to_container(compose([*TINY, *overrides]), resolve=True)
    return plain


def command(
    script: str, arguments: Sequence[str], cwd: Path, timeout: float = 200, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run one of the commands in scripts/ as a subprocess in the folder ``cwd``."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **env}
    environment.pop("TL_RUN_ID", None)
    return subprocess.run(
        [sys.executable, str(REPO / "scripts" / f"{script}.py"), *arguments],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


def weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the state dict in a checkpoint."""
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], but: str = "\0") -> bool:
    """Return whether two state dicts are equal bit for bit, ignoring names that contain ``but``."""
    left, right = ({k: v for k, v in x.items() if but not in k} for x in (a, b))
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def evaluated(report: dict[str, Any]) -> dict[str, float]:
    """Return the test metrics of a report, which evaluating its checkpoint must reproduce."""
    return {name: value for name, value in report["metrics"].items() if "/test/" in name}


#: Two epochs of two steps on tiny images.
SMALL = (
    "data.batch_size=4", "data.eval_batch_size=8", "data.steps_per_epoch=2", "data.num_workers=0",
    "data.augment=light", "trainer.max_epochs=2",
)  # fmt: skip


def file_config(root: Path, *overrides: str) -> dict[str, Any]:
    """Return the configuration of a tiny run on image files below ``root``, plus overrides."""
    plain = config()
    arguments = ["data=dogs", f"data.root={root}", "backbone=tiny_cnn", *SMALL, *overrides]
    found: Any = OmegaConf.to_container(compose(arguments), resolve=True)
    epochs = found["trainer"]["max_epochs"]
    for key in ("trainer", "backbone", "channels_last", "callbacks", "report", "checkpointing"):
        found[key] = plain[key]
    found["trainer"]["max_epochs"] = epochs
    found["baselines"] = []
    return found


class Stop(Exception):
    """Raised to end a run abruptly."""


class StopAt(L.Callback):
    """Save a checkpoint after a given batch, and end the run there."""

    def __init__(self, epoch: int, batch: int) -> None:
        self.place = (epoch, batch)

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and raise at the given epoch and batch."""
        if (trainer.current_epoch, batch_idx) == self.place:
            trainer.save_checkpoint(trainer.checkpoint_callback.dirpath + "/last.ckpt")
            raise Stop


@contextlib.contextmanager
def stopped_at(monkeypatch: pytest.MonkeyPatch, epoch: int, batch: int) -> Iterator[None]:
    """Stop the run started inside this context after the given batch of an epoch."""
    original: Any = training.build

    def build(*arguments: Any) -> Any:
        parts = original(*arguments)
        parts.trainer.callbacks.append(StopAt(epoch, batch))
        return parts

    with monkeypatch.context() as patched:
        patched.setattr(training, "build", build)
        with pytest.raises(Stop):
            yield
