"""Checks of the adaptation methods against the rest of the configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tl_lightning.config.schema import RunConfig
from tl_lightning.distributed.strategy import num_processes
from tl_lightning.models.adaptation import DomainAdaptation, SourceFree

__all__ = ["method_problems"]


def method_problems(run: RunConfig) -> Iterator[str]:
    """Yield an error message for every problem of the methods."""
    listed = f"method=[{','.join(run.methods)}]"
    if run.methods and not issubclass(run.model.cls, DomainAdaptation):
        yield (
            f"model={run.name} does not support adaptation methods, got {listed}; set "
            "model=domain_adaptation"
        )
        return
    yield from _source_problems(run)
    yield from _view_problems(run)
    yield from _statistics_problems(run)
    yield from _batch_problems(run)
    precision = str(run.trainer.precision)
    if run.methods and precision in ("bf16-true", "16-true"):
        yield (
            f"trainer.precision={precision} stores the weights in 16 bits, but {listed} computes "
            f"its loss in 32 bits; set trainer.precision={precision.replace('true', 'mixed')}"
        )
    yield from _alternation_problems(run)


def _source_problems(run: RunConfig) -> Iterator[str]:
    if not issubclass(run.model.cls, SourceFree):
        for name, node in run.methods.items():
            if node.cls.source_free:
                yield (
                    f"method=[{name}] adapts a trained model without source data; set "
                    "model=source_free init=<run folder>"
                )
        return
    if not run.init:
        yield "model=source_free adapts a trained model, but init=null; set init=<run folder>"
    for name, node in run.methods.items():
        if "source" in {*node.cls.required_domains, *node.cls.teacher_views}:
            yield (
                f"method=[{name}] needs source data, which model=source_free does not load; set "
                "model=domain_adaptation, or use a method that needs only target data (shot, tent, "
                "mcc, bnm, entropy, adabn)"
            )


def _view_problems(run: RunConfig) -> Iterator[str]:
    labelled, features = (run.target or {}).get("labelled_per_class"), run.cache.features
    for name, node in run.methods.items():
        if "target_labelled" in node.cls.extra_views and not labelled:
            yield (
                f"method=[{name}] needs few-shot target samples; set "
                "data.target.labelled_per_class=3, or use a dataset that supports this setting"
            )
        if "target_strong" in node.cls.extra_views and features in ("full", "prefix"):
            yield (
                f"method=[{name}] augments target images in every step, but cache.features="
                f"{features} replaces images by stored features; set cache.features=off"
            )
        if node.cls.teacher is not None and features == "prefix":
            yield (
                f"method=[{name}] keeps a second copy of the network, which is not supported with "
                "cache.features=prefix; set cache.features=off"
            )
    for kind, text in (("teacher", "method with a teacher"), ("alternating", "alternating method")):
        names = [name for name, node in run.methods.items() if getattr(node.cls, kind)]
        if len(names) > 1:
            listed = f"method=[{','.join(names)}]"
            yield f"{listed}: only one {text} can be used at a time; keep one of them"


def _statistics_problems(run: RunConfig) -> Iterator[str]:
    frozen = run.backbone.params.get("freeze_bn")
    for name, node in run.methods.items() if frozen else ():
        if node.cls.batch_statistics:
            yield (
                f"method=[{name}] adapts the statistics of batch norm, which backbone.freeze_bn="
                f"{json.dumps(frozen)} freezes; set backbone.freeze_bn=false"
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
