"""Worker of ``test_ranks.py``, run in one process per rank: fits a list of jobs.

Each rank writes its logged values, and the largest difference of weights and buffers between
ranks, as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from omegaconf import OmegaConf

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from conftest import TINY
from tl_lightning.config.compose import compose
from tl_lightning.training import fit as training


def settings(*overrides: str) -> dict[str, Any]:
    """Return the configuration of a tiny run, without TINY's keys of replaced groups."""
    backbone = any(override.startswith("backbone=") for override in overrides)
    data = any(override.startswith("data=") for override in overrides)
    removed = (("backbone.",) if backbone else ()) + (("data", "backbone.") if data else ())
    kept = [override for override in TINY if not override.startswith(removed or "\0")]
    plain: Any = OmegaConf.to_container(compose([*kept, *overrides]), resolve=True)
    return plain


class Recorder(L.Callback):
    """Records logged values and differences between ranks; saves a checkpoint after epoch 0."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logged: list[dict[str, float]] = []
        self.spread = [0.0, 0.0]

    def _compare(self, trainer: L.Trainer, module: L.LightningModule, stage: int) -> None:
        for name, value in module.state_dict().items():
            if name.endswith("_extra_state") or hasattr(value, "full_tensor"):
                continue
            if stage == 0 and "running" in name:  # differs between ranks during an epoch
                continue
            values = trainer.strategy.all_gather(value.double())
            if trainer.world_size > 1:
                difference = float((values - values[0]).abs().max())
                self.spread[stage] = max(self.spread[stage], difference)

    def on_train_batch_end(self, trainer, module, *rest) -> None:
        self._compare(trainer, module, 0)

    def on_validation_batch_end(self, trainer, module, *rest) -> None:
        self._compare(trainer, module, 1)  # the validated weights: the average, if there is one

    def on_validation_end(self, trainer, module) -> None:
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(self.folder / "first.ckpt")
        self.logged.append({k: float(v) for k, v in trainer.callback_metrics.items()})

    def on_test_end(self, trainer, module) -> None:
        self.logged.append({k: float(v) for k, v in trainer.callback_metrics.items()})


def fit(overrides: list[str], folder: Path) -> Recorder:
    """Fit one job on this rank."""
    original: Any = training.build
    recorder = Recorder(folder)

    def build(*arguments: Any) -> Any:
        parts = original(*arguments)
        parts.trainer.callbacks.append(recorder)
        return parts

    training.build = build
    try:
        training.fit(settings(*overrides), folder)
    finally:
        training.build = original
    return recorder


def main(rank: str, folder: Path) -> None:
    """Fit all jobs in ``jobs.json``; a job may be resumed from an earlier one."""
    for name, overrides in json.loads((folder / "jobs.json").read_text()).items():
        resolved = [override.replace("<folder>", str(folder)) for override in overrides]
        recorder = fit(resolved, folder / name)
        values = {"logged": recorder.logged, "spread": recorder.spread}
        (folder / name / f"rank{rank}.json").write_text(json.dumps(values))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], Path(sys.argv[2]))
