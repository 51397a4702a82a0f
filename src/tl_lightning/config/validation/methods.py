"""Checks of the adaptation methods against the trainer, the batches and batch norm."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tl_lightning.config.schema import RunConfig
from tl_lightning.config.static import is_kind
from tl_lightning.config.validation.declared import ADAPTATION
from tl_lightning.distributed.strategy import num_processes

__all__ = ["method_problems"]


def method_problems(run: RunConfig) -> Iterator[str]:
    """Yield an error message for every problem of the methods."""
    if not is_kind(run.model.cls, ADAPTATION):
        return
    listed = f"method=[{','.join(run.methods)}]"
    yield from _statistics_problems(run)
    yield from _per_source_problems(run)
    yield from _batch_problems(run)
    precision = str(run.trainer.precision)
    if run.methods and precision in ("bf16-true", "16-true"):
        yield (
            f"trainer.precision={precision} stores the weights in 16 bits, but {listed} computes "
            f"its loss in 32 bits; set trainer.precision={precision.replace('true', 'mixed')}"
        )
    yield from _alternation_problems(run)


def _statistics_problems(run: RunConfig) -> Iterator[str]:
    frozen = run.backbone.params.get("freeze_bn")
    for name, node in run.methods.items() if frozen else ():
        if node.cls.batch_statistics:
            yield (
                f"method=[{name}] adapts the statistics of batch norm, which backbone.freeze_bn="
                f"{json.dumps(frozen)} freezes; set backbone.freeze_bn=false"
            )


def _per_source_problems(run: RunConfig) -> Iterator[str]:
    for name in [name for name, node in run.methods.items() if node.params.get("per_source")]:
        if "source" not in run.model.cls.train_on:
            yield (
                f"method.{name}.per_source=true trains batch norm of each source domain, but "
                f"model={run.name} does not train on the source; set model=domain_adaptation, or "
                f"method.{name}.per_source=false"
            )
        # Ranks would wait for each other: not all of them have samples of every source domain.
        if run.trainer.sync_batchnorm:
            yield (
                f"method.{name}.per_source=true is not supported with trainer.sync_batchnorm=true, "
                "which needs samples of every source domain on every rank in every step; set "
                f"trainer.sync_batchnorm=false, or method.{name}.per_source=false"
            )


def _batch_problems(run: RunConfig) -> Iterator[str]:
    for name, node in run.methods.items():
        ranks = num_processes(run.trainer) if node.params.get("gather") else 1
        if run.batch_size * ranks < node.cls.smallest_batch:
            yield (
                f"method=[{name}] compares the samples of a batch and needs at least "
                f"{node.cls.smallest_batch} per domain, but data.batch_size={run.batch_size}; set "
                f"data.batch_size={node.cls.smallest_batch} or more"
            )


def _alternation_problems(run: RunConfig) -> Iterator[str]:
    """Yield the settings that conflict with a method that takes several steps per batch."""
    alternating = [name for name, node in run.methods.items() if node.cls.alternating]
    settings = {  # the value set, and the only one supported
        "trainer.gradient_clip_val": (run.trainer.gradient_clip_val, None),
        "trainer.accumulate_grad_batches": (run.trainer.accumulate_grad_batches, 1),
        "trainer.max_steps": (run.trainer.max_steps, -1),
        "lr_find": (run.lr_find, False),
    }
    for key, (value, supported) in settings.items() if alternating else ():
        if value != supported:
            yield (
                f"method=[{alternating[0]}] takes several optimizer steps per batch, which is not "
                f"supported with {key}={value}; set {key}={json.dumps(supported)}"
            )
