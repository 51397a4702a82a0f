"""What is wrong with the further tasks of a configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import nn

from tl_lightning.config.instantiate import ALLOWED, find_class
from tl_lightning.config.validation.classes import adapters_of
from tl_lightning.errors import nearest
from tl_lightning.models.adaptation import SourceFree
from tl_lightning.models.supervised import FeatureExtraction
from tl_lightning.tasks.auxiliary.base import FurtherTask
from tl_lightning.tasks.loss_weighting import BALANCES
from tl_lightning.types import Config

__all__ = ["name_faults", "task_faults"]


def name_faults(config: Config) -> list[str]:
    """Return which tasks are none, before anything else is asked of them."""
    faults = []
    balance, tasks = config.get("balance", "fixed"), config.get("tasks") or {}
    if balance not in BALANCES:
        faults.append(f"balance={balance} is no balance; {nearest(str(balance), BALANCES)}")
    if not isinstance(tasks, Mapping):
        return [*faults, f"tasks={tasks} is no mapping of names to tasks; type task=[coarse]"]
    allowed = [*ALLOWED, *(config.get("allow") or [])]
    for name, node in tasks.items():
        where = f"tasks.{name}"
        # torch keeps the heads by these names, and some of them are its own.
        if not re.fullmatch(r"[A-Za-z]\w*", str(name)) or hasattr(nn.ModuleDict(), str(name)):
            faults.append(
                f"{where} is no name for a task (letters, digits and _, and no word of torch's "
                f"modules); type another one, such as tasks.{re.sub(r'[^A-Za-z0-9]', '', name)}_1"
            )
        if not isinstance(node, Mapping) or "_target_" not in node:
            faults.append(
                f"{where} says no kind of task; type task=[{name}] if there is such a choice, or "
                f"+task@{where}=classification (regression, multi_label, ordinal)"
            )
            continue
        cls, fault = find_class(str(node["_target_"]), where, allowed)
        if not fault and not issubclass(cls, FurtherTask):
            faults.append(
                f"{where}._target_={node['_target_']} is no further task; type "
                f"{where}._target_=tl_lightning.tasks.auxiliary.single_label.SingleLabel"
            )
    return faults


def task_faults(config: Config, model: type) -> list[str]:
    """Return what is wrong, a sentence each.

    Args:
        config: Every node of it is right by itself.
        model: The class of ``config["model"]``.
    """
    tasks, data = config.get("tasks") or {}, config["data"]
    if not tasks:
        return []
    named, faults = ",".join(tasks), []
    for name, node in tasks.items():
        where, column = f"tasks.{name}", node.get("labels")
        cls = find_class(node["_target_"], where, [*ALLOWED, *config["allow"]])[0]
        faults += cls.faults(where, node)
        if column is not None and "others" not in data:
            faults.append(
                f"{where}.labels={column} is a column, but data={data['name']} has none; type "
                f"{where}.labels=null {where}.groups=<table class,label>, or data=csv for pictures"
            )
        elif column is not None and column not in data["others"]:
            listed = ",".join([*data["others"], str(column)])
            faults.append(
                f"{where}.labels={column} is not in data.others={list(data['others'])}; type "
                f"data.others=[{listed}]"
            )
    mixed = [name for name, alpha in data.get("mix", {}).items() if alpha]
    if mixed:
        faults.append(
            f"data.mix.{mixed[0]} mixes pictures and the main task's labels, not those of "
            f"tasks=[{named}]; type data.mix.{mixed[0]}=0, or task=none"
        )
    if issubclass(model, SourceFree):
        faults.append(
            f"model={config['model']['name']} shows no labels, so tasks=[{named}] would learn "
            "nothing; type task=none"
        )
    return faults + (_projection_faults(config, model) if config["balance"] == "pcgrad" else [])


def _projection_faults(config: Config, model: type) -> list[str]:
    """Return why gradients of single tasks cannot be projected."""
    trainer = config["trainer"]
    why = "balance=pcgrad sets the gradients of every batch itself"
    settings = {  # what is set, and what goes with it
        "trainer.accumulate_grad_batches": (trainer["accumulate_grad_batches"], 1),
        "trainer.devices": (str(trainer["devices"]), "1"),
        "trainer.num_nodes": (trainer["num_nodes"], 1),
    }
    faults = [
        f"{why}, which {key}={value} does not go with; type {key}={usual}, or balance=fixed"
        for key, (value, usual) in settings.items()
        if value != usual
    ]
    if str(trainer["precision"]) == "16-mixed":
        faults.append(
            f"{why}, which trainer.precision=16-mixed would scale; type "
            "trainer.precision=bf16-mixed, or balance=fixed"
        )
    turns = [name for name, cls in adapters_of(dict(config)).items() if cls.alternates]
    if turns:
        faults.append(
            f"{why}, and adapter=[{turns[0]}] takes several steps a batch; type balance=fixed"
        )
    if issubclass(model, FeatureExtraction) and config["head"].get("bottleneck") is None:
        faults.append(
            "balance=pcgrad projects gradients of what the tasks share, but "
            f"model={config['model']['name']} with head.bottleneck=null shares nothing that "
            "learns; type head.bottleneck=256, or balance=fixed"
        )
    return faults
