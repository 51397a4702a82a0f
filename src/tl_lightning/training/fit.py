"""Training and testing of one run, and feature extraction without training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn
from omegaconf import DictConfig

from tl_lightning.checkpoints.resume import check_resumed, resume_point
from tl_lightning.config.schema import RunConfig
from tl_lightning.config.validation.check import check
from tl_lightning.distributed.ranks import rank
from tl_lightning.distributed.relaunch import single_job_argv
from tl_lightning.training.auto import fit_auto
from tl_lightning.training.build import Parts, build
from tl_lightning.training.clock import Clock
from tl_lightning.training.failures import explanation_of
from tl_lightning.training.feature_extraction import fill
from tl_lightning.training.head_start import measure_domains, prepare_start
from tl_lightning.training.interpolation import interpolate, start_file
from tl_lightning.training.limits import check_limits, early_end
from tl_lightning.training.lr_finder import with_found_rate
from tl_lightning.training.outputs import fit_outputs
from tl_lightning.training.results import Result, initial_metrics, selection_state, write_run
from tl_lightning.training.trainer import start_loggers
from tl_lightning.utils.process import collected_warnings, keep_memory, quiet, skip_gpu_checks
from tl_lightning.utils.signals import signals

__all__ = ["extract", "fit"]


def fit(
    cfg: DictConfig | Mapping[str, Any] | RunConfig,
    run_dir: Path,
    baseline_of: str = "",
    callbacks: Sequence[L.Callback] = (),
) -> dict[str, Any]:
    """Train, select a checkpoint by the selection rule, test it, and write the report.

    Args:
        cfg: The composed configuration.
        run_dir: The run's folder; everything is written below it.
        baseline_of: Name of the adapted model that this run is a baseline of, if any.
        callbacks: Callbacks besides those of the configuration.

    Returns:
        The report, as in ``report.json``; an empty mapping on ranks other than 0.

    Raises:
        TransferError: If the configuration, the data or a checkpoint cannot be used.
    """
    run = check(cfg)
    if run.model.cls.composite:
        return fit_auto(run, run_dir, tuple(callbacks), fit)
    clock = Clock()
    quiet()
    keep_memory()
    skip_gpu_checks()
    caught: list[str] = []
    with collected_warnings(caught), single_job_argv(run.resume), signals.watched():
        begin = resume_point(run, run_dir)
        resumed, steps_before = begin.checkpoint, begin.steps
        with _explaining(run):
            run = with_found_rate(run, run_dir, resumed)
            parts = build(run, run_dir, False, begin.stored.data if begin.stored else None)
            trainer, module, data = parts.trainer, parts.module, parts.data
            check_resumed(begin, module, run.section("optimizer")["_target_"])
            start_loggers(trainer, run.group("logger"))
            cast(Any, trainer).callbacks.extend(callbacks)
            if resumed and run.interpolation is not None:
                start_file(parts, resumed)  # before training for nothing
            clock.start()
            start = prepare_start(parts)
            features = fill(parts.features, module, data, trainer)
            clock.lap("features_s")
            check_limits(parts)
            initial = initial_metrics(parts)
            trainer.fit(module, datamodule=data, ckpt_path=resumed)
            cut = early_end(trainer, module)
            clock.lap("fit_s")
            state, chosen = selection_state(trainer, cut), _chosen(trainer)
            if run.interpolation is not None:
                state, chosen = interpolate(parts, start, state, chosen)
            fit_outputs(parts, chosen)
            if run.test:
                trainer.test(module, datamodule=data, ckpt_path=str(chosen), verbose=False)
            clock.lap("test_s")
    if rank() != 0:
        return {}
    # Like the times, only of this process, without the steps before a resume.
    steps = trainer.global_step - steps_before
    speed = {"from_step": steps_before, "steps_per_s": steps / max(1e-9, clock.laps["fit_s"])}
    timing = {"total_s": clock.total(), **clock.laps, **speed}
    result = Result(
        parts, chosen, state, timing, features, caught, baseline_of or None, start, initial
    )
    return write_run(run_dir, result)


def extract(cfg: DictConfig | Mapping[str, Any] | RunConfig, folder: Path) -> Parts:
    """Build a configuration and store the features of its frozen backbone, without training.

    Features of all domains are stored, also of those that the model would not train on.
    """
    quiet()
    keep_memory()
    with signals.watched():
        parts = build(check(cfg), folder, all_domains=True)
        measure_domains(parts)
        fill(parts.features, parts.module, parts.data, parts.trainer)
    return parts


@contextmanager
def _explaining(run: RunConfig) -> Iterator[None]:
    """Turn failures of the environment into errors with advice, and interrupts into themselves."""
    try:
        yield
    except (MemoryError, OSError, RuntimeError, ValueError) as error:
        explanation = explanation_of(error, run)
        if explanation is None:
            raise
        signals.end_other_ranks()
        raise explanation from error
    except SystemExit as end:
        # Lightning turns an interrupt into exit status 1 without a message.
        if isinstance(end.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise


def _chosen(trainer: L.Trainer) -> Path:
    checkpoint: Any = trainer.checkpoint_callback
    if checkpoint.monitor is not None and not checkpoint.best_model_path:
        rank_zero_warn(
            f"no validation was completed, so there is no {checkpoint.monitor} to select a "
            "checkpoint by, and the last model is tested; train longer, or set selection=last"
        )
    return Path(checkpoint.best_model_path or checkpoint.last_model_path)
