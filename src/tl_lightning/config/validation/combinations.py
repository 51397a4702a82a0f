"""Checks of combinations of settings that are each valid on their own."""

from __future__ import annotations

from collections.abc import Iterator

from tl_lightning.config.schema import RunConfig
from tl_lightning.config.validation.class_sets import class_set_problems
from tl_lightning.config.validation.data import mixing_keys
from tl_lightning.config.validation.declared import DECLARED
from tl_lightning.config.validation.distributed import strategy_problems
from tl_lightning.config.validation.methods import method_problems
from tl_lightning.config.validation.start import head_init_problems, interpolation_problems
from tl_lightning.config.validation.tasks import task_problems
from tl_lightning.config.validation.trainer import trainer_problems
from tl_lightning.distributed.strategy import is_sharded
from tl_lightning.selection.rules import rule_of
from tl_lightning.tasks.head import Head

__all__ = ["combination_problems"]


def combination_problems(run: RunConfig) -> Iterator[str]:
    """Yield an error message for every conflict between settings."""
    for problems in DECLARED:
        yield from problems(run)
    yield from _selection_problems(run)
    yield from method_problems(run)
    yield from task_problems(run)
    yield from trainer_problems(run)
    yield from strategy_problems(run)
    yield from _lr_find_problems(run)
    yield from head_init_problems(run, is_sharded(run.trainer))
    yield from interpolation_problems(run)
    if run.task.kind == "ordinal" and not Head.is_kind(run.nodes["head"].cls):
        yield (
            "task=ordinal replaces the last layer of a tl_lightning.tasks.head.Head, but the head "
            f"is {run.nodes['head'].target}; set head=linear"
        )
    yield from class_set_problems(run)
    epochs, every = run.trainer.max_epochs, run.checkpointing.every_n_epochs
    if epochs is not None and every > epochs > 0:
        yield (
            f"checkpointing.every_n_epochs={every} saves no model within trainer.max_epochs="
            f"{epochs}; set checkpointing.every_n_epochs={epochs} or less"
        )


def _selection_problems(run: RunConfig) -> Iterator[str]:
    rule = rule_of(run.selection, run.task.kind)
    if rule.needs_target and run.target is None:
        yield (
            f"selection={run.selection} scores target samples, but data.target=null; "
            "set selection=source_val"
        )
    if str(rule.monitor).startswith("validator/") and "callbacks.validators" not in run.nodes:
        yield (
            f"selection={run.selection} needs a score of callbacks.validators, which is not "
            "enabled; set callbacks=default, or selection=source_val"
        )
    scores_target = str(rule.monitor).startswith("validator/") or run.target is None
    if run.model.cls.composite and not scores_target:
        yield (
            f"model={run.name} compares models by a score of the unlabelled target, but selection="
            f"{run.selection}; set selection=cbnm"
        )
    if run.methods and (mixed := mixing_keys(run)):
        yield (
            f"data.{mixed[0]}={run.data.params[mixed[0]]} mixes labels, which is not supported "
            f"with adaptation methods; set data.{mixed[0]}=0, or use a model without methods"
        )


def _lr_find_problems(run: RunConfig) -> Iterator[str]:
    if not run.lr_find:
        return
    if not run.lr > 0:
        yield (
            f"lr_find=true needs optimizer.lr > 0 to start from, got {run.lr}; set "
            "optimizer.lr=0.001"
        )
    if not run.trainer.single_process:
        yield (
            f"lr_find=true runs on one device, but trainer.devices={run.trainer.devices} and "
            f"trainer.num_nodes={run.trainer.num_nodes}; run it with trainer=auto first, then set "
            "optimizer.lr=<the learning rate found> and lr_find=false"
        )
    if run.reference_batch_size is not None:
        yield (
            "lr_find=true finds a learning rate for the actual batch size, and "
            f"reference_batch_size={run.reference_batch_size} would scale it again; set "
            "reference_batch_size=null"
        )
