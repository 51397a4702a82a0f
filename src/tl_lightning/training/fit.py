"""The whole, top to bottom: check a configuration, build it, fit it, load what it left."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn
from omegaconf import DictConfig

from tl_lightning.checkpoints.resume import resume_point
from tl_lightning.config.validation.check import check
from tl_lightning.distributed.ranks import rank
from tl_lightning.distributed.relaunch import single_job_argv
from tl_lightning.training import results
from tl_lightning.training.build import (
    Parts,
    build,
    plan_features,
)
from tl_lightning.training.failures import explained
from tl_lightning.training.feature_extraction import fill
from tl_lightning.training.lr_finder import with_found_rate
from tl_lightning.types import Config
from tl_lightning.utils.process import gathered_warnings, keep_memory, quiet
from tl_lightning.utils.signals import signals

__all__ = ["fit", "stored"]


def fit(
    cfg: DictConfig | Mapping[str, Any],
    run_dir: Path,
    baseline_of: str = "",
    watching: Sequence[L.Callback] = (),
) -> Config:
    """Train, choose by the selection rule, test the chosen model, write the report.

    Args:
        cfg: The composed configuration.
        run_dir: The run's folder; everything is written below it.
        baseline_of: Name of the adapted run that this one stands beside, if any.
        watching: Callbacks besides those of the configuration.

    Returns:
        The report, as in ``report.json``; an empty mapping on ranks other than 0.
    """
    started = time.monotonic()
    quiet()
    keep_memory()
    config = check(cfg)
    warned: list[str] = []
    with gathered_warnings(warned), single_job_argv(config["resume"]), signals.watched():
        resumed, behind = resume_point(config, run_dir)
        try:
            config = with_found_rate(config, run_dir, resumed)
            parts = build(config, run_dir)
            cast(Any, parts.trainer).callbacks.extend(watching)
            begun = time.monotonic()
            stored = fill(parts.features, parts.module, parts.data, parts.trainer)
            filled = time.monotonic()
            parts.trainer.fit(parts.module, datamodule=parts.data, ckpt_path=resumed)
            fitted, standing = time.monotonic(), results.standing(parts.trainer)
            chosen = _chosen(parts.trainer)
            parts.trainer.test(
                parts.module, datamodule=parts.data, ckpt_path=str(chosen), verbose=False
            )
            ended = time.monotonic()
        except (MemoryError, OSError, RuntimeError) as error:
            sentence = explained(error, config)
            if sentence is None:
                raise
            signals.end_other_ranks()
            raise sentence from error
        except SystemExit as end:
            # Lightning ends with 1 here, without a word.
            if isinstance(end.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise
    if rank() != 0:
        return {}
    timing = {
        "total_s": ended - started,
        "features_s": filled - begun,
        "fit_s": fitted - filled,
        "test_s": ended - fitted,
        # Of this process, as the seconds are, not of what a resumed run has behind it.
        "from_step": behind,
        "steps_per_s": (parts.trainer.global_step - behind) / max(1e-9, fitted - filled),
    }
    return results.write_run(
        run_dir,
        config,
        chosen,
        warned,
        trainer=parts.trainer,
        standing=standing,
        data=parts.data,
        collect=parts.collect,
        timing=timing,
        features=stored,
        baseline_of=baseline_of or None,
    )


def stored(cfg: DictConfig | Mapping[str, Any], folder: Path) -> Parts:
    """Build a configuration and store the features of its frozen backbone; nothing trains."""
    quiet()
    keep_memory()
    config = check(cfg)
    with signals.watched():
        parts = build(config, folder)
        parts.data.train_on = tuple(parts.data.roles)  # also what no head would train on
        parts.features = plan_features(config, parts.module, parts.data)
        fill(parts.features, parts.module, parts.data, parts.trainer)
    return parts


def _chosen(trainer: L.Trainer) -> Path:
    checkpoint: Any = trainer.checkpoint_callback
    if checkpoint.monitor is not None and not checkpoint.best_model_path:
        rank_zero_warn(
            f"no epoch was validated to its end, so there is no {checkpoint.monitor} to choose by, "
            "and the last model is tested; train longer, or type selection=last"
        )
    return Path(checkpoint.best_model_path or checkpoint.last_model_path)
