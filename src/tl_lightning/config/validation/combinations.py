"""Checks of combinations of settings that are each valid on their own."""

from __future__ import annotations

from collections.abc import Iterator

from tl_lightning.config.schema import RunConfig
from tl_lightning.config.validation.class_sets import class_set_problems
from tl_lightning.config.validation.data import data_problems, mixing_keys
from tl_lightning.config.validation.distributed import strategy_problems
from tl_lightning.config.validation.kinds import kind_problems
from tl_lightning.config.validation.methods import method_problems
from tl_lightning.config.validation.start import head_init_problems, interpolation_problems
from tl_lightning.config.validation.tasks import task_problems
from tl_lightning.config.validation.trainer import trainer_problems
from tl_lightning.config.validation.unseen import unseen_problems
from tl_lightning.distributed.strategy import is_sharded
from tl_lightning.selection.rules import rule_of

__all__ = ["combination_problems"]


def combination_problems(run: RunConfig) -> Iterator[str]:
    """Yield an error message for every conflict between settings."""
    yield from kind_problems(run)
    yield from _target_problems(run)
    yield from _selection_problems(run)
    yield from data_problems(run)
    yield from method_problems(run)
    yield from unseen_problems(run)
    yield from task_problems(run)
    yield from trainer_problems(run)
    yield from strategy_problems(run)
    yield from _lr_find_problems(run)
    yield from head_init_problems(run, is_sharded(run.trainer))
    yield from interpolation_problems(run)
    yield from class_set_problems(run)
    epochs, every = run.trainer.max_epochs, run.checkpointing.every_n_epochs
    if epochs is not None and every > epochs > 0:
        yield (
            f"checkpointing.every_n_epochs={every} saves no model within trainer.max_epochs="
            f"{epochs}; set checkpointing.every_n_epochs={epochs} or less"
        )


def _target_problems(run: RunConfig) -> Iterator[str]:
    model, data = run.model.cls, run.data.cls
    if model.learn_from == "target" and run.data.params.get("transductive"):
        yield (
            f"model={run.name} would be tested on the target images that it was trained on, "
            "because data.transductive=true; set data.transductive=false, or remove it from "
            "baselines"
        )
    if run.target is not None:
        return
    if "target" in {*model.train_on, model.learn_from}:
        ways = [f"set data.target.{data.target_hint()}"]
        if not data.target_optional:
            ways.append("keep the dataset's default data.target")
        if "source" in model.train_on:
            ways.append("set model=source_only")
        verb = "adapts to" if model.learn_from == "source" else "learns from"
        yield (f"model={run.name} {verb} a target, but data.target=null; {', or '.join(ways)}")
    if run.track_target:
        yield (
            "track_target=true logs accuracy on the target, but data.target=null; set "
            "track_target=false"
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
