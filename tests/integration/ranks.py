"""Run by ``test_ranks.py`` in several processes at once: fits one job after the other.

Every rank writes what it logged, and how far the ranks' weights and buffers were apart, as JSON.
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
    """Return the tiny run's configuration; another backbone takes none of its keys."""
    own = any(one.startswith("backbone=") for one in overrides)
    data = any(one.startswith("data=") for one in overrides)
    gone = (("backbone.",) if own else ()) + (("data", "backbone.") if data else ())
    kept = [one for one in TINY if not one.startswith(gone or "\0")]
    plain: Any = OmegaConf.to_container(compose([*kept, *overrides]), resolve=True)
    return plain


class Listen(L.Callback):
    """Keeps what this rank logs, how far the ranks are apart, and the first epoch's checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logged: list[dict[str, float]] = []
        self.spread = [0.0, 0.0]

    def _apart(self, trainer: L.Trainer, module: L.LightningModule, place: int) -> None:
        for name, value in module.state_dict().items():
            if name.endswith("_extra_state") or hasattr(value, "full_tensor"):
                continue
            if place == 0 and "running" in name:  # of a step each rank has its own
                continue
            every = trainer.strategy.all_gather(value.double())
            if trainer.world_size > 1:
                apart = float((every - every[0]).abs().max())
                self.spread[place] = max(self.spread[place], apart)

    def on_train_batch_end(self, trainer, module, *rest) -> None:
        self._apart(trainer, module, 0)

    def on_validation_batch_end(self, trainer, module, *rest) -> None:
        self._apart(trainer, module, 1)  # of what is scored: the average, where there is one

    def on_validation_end(self, trainer, module) -> None:
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(self.folder / "first.ckpt")
        self.logged.append({k: float(v) for k, v in trainer.callback_metrics.items()})

    def on_test_end(self, trainer, module) -> None:
        self.logged.append({k: float(v) for k, v in trainer.callback_metrics.items()})


def fit(overrides: list[str], folder: Path) -> Listen:
    """Fit one job; the process may be one of several."""
    honest: Any = training.build
    listen = Listen(folder)

    def build(*arguments: Any) -> Any:
        parts = honest(*arguments)
        parts.trainer.callbacks.append(listen)
        return parts

    training.build = build
    try:
        training.fit(settings(*overrides), folder)
    finally:
        training.build = honest
    return listen


def main(rank: str, folder: Path) -> None:
    """Fit every job of ``jobs.json``; a job may go on from one before it."""
    for name, overrides in json.loads((folder / "jobs.json").read_text()).items():
        own = [one.replace("<folder>", str(folder)) for one in overrides]
        heard = fit(own, folder / name)
        said = {"logged": heard.logged, "spread": heard.spread}
        (folder / name / f"rank{rank}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], Path(sys.argv[2]))
