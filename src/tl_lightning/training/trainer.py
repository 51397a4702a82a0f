"""Construction of the trainer from its configuration."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import Logger

from tl_lightning.callbacks.console_log import ConsoleLog
from tl_lightning.callbacks.domain_metrics import DomainMetrics
from tl_lightning.callbacks.model_checkpoint import SelectionCheckpoint
from tl_lightning.callbacks.phases import PhaseCallback
from tl_lightning.callbacks.selected_outputs import SelectedOutputs
from tl_lightning.config.instantiate import Node
from tl_lightning.config.schema import WITHOUT_CLASSES, RunConfig, TrainerConfig
from tl_lightning.distributed.strategy import num_processes, with_timeout
from tl_lightning.errors import ConfigError, TransferError
from tl_lightning.models.base import TransferModule
from tl_lightning.utils.text import masked

__all__ = ["make_loggers", "make_trainer", "run_callbacks", "start_loggers"]


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


def run_callbacks(
    run: RunConfig, module: TransferModule, run_dir: Path, reporting: Sequence[L.Callback]
) -> list[L.Callback]:
    """Return the callbacks of a run, in their order.

    Args:
        run: The configuration.
        module: The model.
        run_dir: The run's folder.
        reporting: The callbacks that collect what its page shows.
    """
    settings = {k: v for k, v in asdict(run.checkpointing).items() if k != "keep_last"}
    checkpoint = SelectionCheckpoint(
        dirpath=str(run_dir / "checkpoints"),
        selection=run.selection,
        task=run.task.kind,
        **settings,
    )
    own = [node.build() for node in run.group("callbacks").values()]
    phases = [PhaseCallback()] if module.phases.steps else []
    start = (run.init, run.backbone.consumed.get("checkpoint"))
    outputs = SelectedOutputs(validation=True, start=[Path(path) for path in start if path])
    if run.task.kind in WITHOUT_CLASSES:  # the others measure classes
        return [*phases, checkpoint, *own, *reporting, ConsoleLog()]
    return [*phases, checkpoint, DomainMetrics(), *own, *reporting, outputs, ConsoleLog()]


def make_loggers(nodes: Mapping[str, Node], run_dir: Path) -> list[Logger]:
    """Build the configured loggers.

    Args:
        nodes: Their configurations by name.
        run_dir: The run's folder.

    Raises:
        ConfigError: If one cannot be built, for example because of an invalid address.
    """
    loggers = []
    for name, node in nodes.items():
        with _explained(name):
            loggers.append(node.build(save_dir=str(run_dir)))
    return loggers


def start_loggers(trainer: L.Trainer, names: Iterable[str]) -> None:
    """Let each logger connect to its server or database, which Lightning does later, in ``fit``.

    Args:
        trainer: The trainer with the loggers.
        names: Their names in the configuration.

    Raises:
        ConfigError: If one cannot, for example because its server does not answer.
    """
    for name, logger in zip(names, trainer.loggers, strict=False):
        with _explained(name):
            getattr(logger, "experiment", None)


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except TransferError:
        raise
    except Exception as error:  # those of the logger's library
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"logger.{name} cannot be started: {masked(reason)}; correct logger.{name}.<key>, or "
            "set logger=csv"
        ) from error
