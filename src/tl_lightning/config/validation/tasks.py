"""Checks of the auxiliary tasks against the rest of the configuration."""

from __future__ import annotations

from collections.abc import Iterator

from tl_lightning.config.schema import RunConfig
from tl_lightning.config.validation.data import mixing_keys
from tl_lightning.models.adaptation import SourceFree
from tl_lightning.models.supervised import FeatureExtraction

__all__ = ["task_problems"]


def task_problems(run: RunConfig) -> Iterator[str]:
    """Yield an error message for every problem of the auxiliary tasks."""
    if not run.aux_tasks:
        return
    columns, listed = run.data.params.get("label_columns"), ",".join(run.aux_tasks)
    for name, node in run.aux_tasks.items():
        where, column = f"aux_tasks.{name}", node.params.get("labels")
        if column is None:
            continue
        if columns is None:
            yield (
                f"{where}.labels={column} is a label column, but data={run.data_name} has none; "
                f"set {where}.labels=null {where}.groups=<table class,label>, or data=csv for "
                "images"
            )
        elif column not in columns:
            yield (
                f"{where}.labels={column} is not in data.label_columns={list(columns)}; set "
                f"data.label_columns=[{','.join([*columns, str(column)])}]"
            )
    if mixed := mixing_keys(run):
        yield (
            f"data.{mixed[0]}={run.data.params[mixed[0]]} mixes images and the labels of the main "
            f"task, but not those of aux_task=[{listed}]; set data.{mixed[0]}=0, or aux_task=none"
        )
    if issubclass(run.model.cls, SourceFree):
        yield (
            f"model={run.name} trains without labels, so aux_task=[{listed}] would learn nothing; "
            "set aux_task=none"
        )
    if run.task_weighting == "pcgrad":
        yield from _projection_problems(run)


def _projection_problems(run: RunConfig) -> Iterator[str]:
    """Yield why the gradients of the tasks cannot be projected (PCGrad)."""
    reason = "task_weighting=pcgrad computes the gradients of each batch itself"
    settings = {  # the value set, and the only one supported
        "trainer.accumulate_grad_batches": (run.trainer.accumulate_grad_batches, 1),
        "trainer.devices": (str(run.trainer.devices), "1"),
        "trainer.num_nodes": (run.trainer.num_nodes, 1),
    }
    for key, (value, supported) in settings.items():
        if value != supported:
            yield (
                f"{reason}, which is not supported with {key}={value}; set {key}={supported}, or "
                "task_weighting=fixed"
            )
    if str(run.trainer.precision) == "16-mixed":
        yield (
            f"{reason}, which is not supported with the loss scaling of "
            "trainer.precision=16-mixed; set trainer.precision=bf16-mixed, or task_weighting=fixed"
        )
    alternating = [name for name, node in run.methods.items() if node.cls.alternating]
    if alternating:
        yield (
            f"{reason}, but method=[{alternating[0]}] takes several optimizer steps per batch; "
            "set task_weighting=fixed"
        )
    bottleneck = run.nodes["head"].params.get("bottleneck")
    if issubclass(run.model.cls, FeatureExtraction) and bottleneck is None:
        yield (
            "task_weighting=pcgrad projects the gradients of shared parameters, but "
            f"model={run.name} with head.bottleneck=null has no trainable shared parameters; set "
            "head.bottleneck=256, or task_weighting=fixed"
        )
