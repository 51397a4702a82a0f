"""Training and testing of one run, and feature extraction without training."""

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
from tl_lightning.training.build import Parts, build, plan_features
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
    """Train, select a checkpoint by the selection rule, test it, and write the report.

    Args:
        cfg: The composed configuration.
        run_dir: The run's folder; everything is written below it.
        baseline_of: Name of the adapted model that this run is a baseline of, if any.
        watching: Additional callbacks besides those of the configuration.

    Returns:
        The report, as in ``report.json``; an empty mapping on ranks other than 0.
    """
    started = time.monotonic()
    quiet()
    keep_memory()
    config = check(cfg)
    warned: list[str] = []
    with gathered_warnings(warned), single_job_argv(config["resume"]), signals.watched():
        resumed, steps_before = resume_point(config, run_dir)
        try:
            config = with_found_rate(config, run_dir, resumed)
            parts = build(config, run_dir)
            cast(Any, parts.trainer).callbacks.extend(watching)
            built = time.monotonic()
            features = fill(parts.features, parts.module, parts.data, parts.trainer)
            filled = time.monotonic()
            parts.trainer.fit(parts.module, datamodule=parts.data, ckpt_path=resumed)
            fitted, standing = time.monotonic(), results.standing(parts.trainer)
            chosen = _chosen(parts.trainer)
            parts.trainer.test(
                parts.module, datamodule=parts.data, ckpt_path=str(chosen), verbose=False
            )
            ended = time.monotonic()
        except (MemoryError, OSError, RuntimeError) as error:
            explanation = explained(error, config)
            if explanation is None:
                raise
            signals.end_other_ranks()
            raise explanation from error
        except SystemExit as end:
            # Lightning turns an interrupt into exit status 1 without a message.
            if isinstance(end.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise
    if rank() != 0:
        return {}
    timing = {
        "total_s": ended - started,
        "features_s": filled - built,
        "fit_s": fitted - filled,
        "test_s": ended - fitted,
        # Like the times, only of this process, without the steps before a resume.
        "from_step": steps_before,
        "steps_per_s": (parts.trainer.global_step - steps_before) / max(1e-9, fitted - filled),
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
        features=features,
        baseline_of=baseline_of or None,
    )


def stored(cfg: DictConfig | Mapping[str, Any], folder: Path) -> Parts:
    """Build a configuration and store the features of its frozen backbone, without training."""
    quiet()
    keep_memory()
    config = check(cfg)
    with signals.watched():
        parts = build(config, folder)
        parts.data.train_on = tuple(parts.data.roles)  # also domains that no head would train on
        parts.features = plan_features(config, parts.module, parts.data)
        fill(parts.features, parts.module, parts.data, parts.trainer)
    return parts


def _chosen(trainer: L.Trainer) -> Path:
    checkpoint: Any = trainer.checkpoint_callback
    if checkpoint.monitor is not None and not checkpoint.best_model_path:
        rank_zero_warn(
            f"no validation was completed, so there is no {checkpoint.monitor} to select a "
            "checkpoint by, and the last model is tested; train longer, or set selection=last"
        )
    return Path(checkpoint.best_model_path or checkpoint.last_model_path)
