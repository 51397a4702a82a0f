"""Checks of each node by itself: the right kind of class, and settings that the class refuses."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import lightning as L
from lightning.pytorch.loggers import Logger
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from tl_lightning.config.instantiate import Node, nodes_of
from tl_lightning.config.schema import RunConfig
from tl_lightning.config.signatures import for_path
from tl_lightning.config.validation.resolve import allowed_packages
from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.losses.regularizers import Regularizer
from tl_lightning.methods.base import Method
from tl_lightning.models.base import TransferModule
from tl_lightning.schedules import Schedule
from tl_lightning.tasks.auxiliary.base import AuxiliaryTask

__all__ = ["checked_nodes", "part_problems"]

#: What the class of a node must be, how to call it, and where that is documented.
_PROTOCOLS: dict[str, tuple[tuple[type, ...], str, str]] = {
    "model": ((TransferModule,), "subclass of tl_lightning.TransferModule", "lightningmodule"),
    "data": (
        (TransferDataModule,), "subclass of tl_lightning.TransferDataModule", "lightningdatamodule",
    ),
    "backbone": ((nn.Module,), "nn.Module with the members of tl_lightning.types.Backbone",
                 "backbone"),
    "head": ((nn.Module,), "nn.Module", "backbone"),
    "loss": ((nn.Module,), "nn.Module with forward(logits, labels)", "loss"),
    "optimizer": ((Optimizer,), "subclass of torch.optim.Optimizer", "optimizer"),
    "scheduler": ((Schedule, LRScheduler), "schedule or torch.optim.lr_scheduler class",
                  "learning-rate-scheduler"),
    "method.*": ((Method,), "subclass of tl_lightning.Method", "method"),
    "regularizer.*": ((Regularizer,), "subclass of tl_lightning.losses.Regularizer", "loss"),
    "aux_tasks.*": ((AuxiliaryTask,), "subclass of AuxiliaryTask, such as "
                    "tl_lightning.tasks.auxiliary.single_label.SingleLabel", "metric"),
    "metrics.*": ((Metric,), "subclass of torchmetrics.Metric", "metric"),
    "callbacks.*": ((L.Callback,), "subclass of lightning.Callback", "callback"),
    "logger.*": ((Logger,), "subclass of lightning.pytorch.loggers.Logger", "logger"),
}  # fmt: skip


def checked_nodes(config: Mapping[str, Any]) -> tuple[dict[str, Node], list[str]]:
    """Return the nodes of a plain configuration by path, and the problems of their classes."""
    nodes, problems = nodes_of(config, allowed_packages(config))
    for path, node in nodes.items():
        kinds, wanted, anchor = for_path(_PROTOCOLS, path) or ((object,), "", "")
        if not issubclass(node.cls, kinds):
            # One message in place of a list of keys that such a class does not take.
            problems = [one for one in problems if not one.startswith(f"{path}.")]
            problems.append(
                f"{path}._target_={node.target} is not a {wanted}; see "
                f"docs/bring_your_own.md#{anchor} for what it needs"
            )
    return nodes, problems


def part_problems(run: RunConfig) -> Iterator[str]:
    """Yield what the classes say of their own settings, alone and in this run.

    A class may have ``check_config(where, params)`` and ``check_run(where, params, run)``, class
    methods that return messages.
    """
    for path, node in run.nodes.items():
        params = {**node.params, **node.consumed}
        if hasattr(node.cls, "check_config"):
            yield from node.cls.check_config(path, params)
        if hasattr(node.cls, "check_run"):
            yield from node.cls.check_run(path, params, run)
    scheduler = run.nodes.get("scheduler")
    if scheduler is not None and issubclass(scheduler.cls, LRScheduler):
        yield from _scheduler_problems(run, scheduler)
    for name, task in run.aux_tasks.items():
        # The heads are stored in an nn.ModuleDict, whose attribute names cannot be used.
        if hasattr(nn.ModuleDict(), name):
            yield (
                f"aux_tasks.{name} is not a valid task name, as nn.ModuleDict has an attribute of "
                f"that name; rename it, e.g. {task.path}_1"
            )


def _scheduler_problems(run: RunConfig, node: Node) -> Iterator[str]:
    if run.steps:
        yield (
            f"scheduler._target_={node.target} is not supported with phases, which restart the "
            "schedule; set phases=none, or scheduler=cosine"
        )
    if "metrics" in inspect.signature(node.cls.step).parameters:
        yield (
            f"scheduler._target_={node.target} needs a metric to follow, which is not supported; "
            "set scheduler=cosine"
        )
