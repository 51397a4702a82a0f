"""Construction of the trainer from its configuration."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightning as L

from tl_lightning.config.instantiate import Node
from tl_lightning.config.schema import TrainerConfig
from tl_lightning.distributed.strategy import num_processes, with_timeout

__all__ = ["make_trainer"]


def make_trainer(
    trainer: TrainerConfig, run_dir: Path | None = None, **arguments: Any
) -> L.Trainer:
    """Build a trainer whose ranks wait for one another for at most ``timeout_s``.

    Args:
        trainer: Its configuration.
        run_dir: The run's folder.
        arguments: Arguments of ``lightning.Trainer`` that replace the configured ones.
    """
    keys = {**trainer.arguments(), **arguments}
    strategy = keys["strategy"]
    if strategy == "auto" and num_processes(trainer) > 1 and not hasattr(sys, "ps1"):
        strategy = "ddp"  # what Lightning would choose, except in notebooks
    keys = {key: value.build() if isinstance(value, Node) else value for key, value in keys.items()}
    strategy = strategy.build() if isinstance(strategy, Node) else strategy
    keys["strategy"] = with_timeout(strategy, trainer.timeout_s)
    callbacks = keys.get("callbacks", ())
    return L.Trainer(
        **keys,
        default_root_dir=None if run_dir is None else str(run_dir),
        enable_progress_bar=any("ProgressBar" in type(one).__name__ for one in callbacks),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # the data module's samplers split the data over ranks
    )
