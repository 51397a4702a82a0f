"""Checks of the auxiliary tasks."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import nn

from tl_lightning.config.instantiate import ALLOWED, find_class
from tl_lightning.config.validation.classes import method_classes
from tl_lightning.config.validation.data import mixing_keys
from tl_lightning.errors import nearest
from tl_lightning.models.adaptation import SourceFree
from tl_lightning.models.supervised import FeatureExtraction
from tl_lightning.tasks.auxiliary.base import AuxiliaryTask
from tl_lightning.tasks.loss_weighting import TASK_WEIGHTINGS
from tl_lightning.types import Config

__all__ = ["name_problems", "task_problems"]


def name_problems(config: Config) -> list[str]:
    """Return the problems of the names and classes of the auxiliary tasks."""
    problems = []
    task_weighting, tasks = config.get("task_weighting", "fixed"), config.get("aux_tasks") or {}
    if task_weighting not in TASK_WEIGHTINGS:
        hint = nearest(str(task_weighting), TASK_WEIGHTINGS)
        problems.append(f"task_weighting={task_weighting} is not a task weighting; {hint}")
    if not isinstance(tasks, Mapping):
        return [
            *problems,
            f"aux_tasks={tasks} is not a mapping of names to tasks; set aux_task=[coarse]",
        ]
    allowed = [*ALLOWED, *(config.get("allow") or [])]
    for name, node in tasks.items():
        where = f"aux_tasks.{name}"
        # The heads are stored in an nn.ModuleDict, whose attribute names cannot be used.
        if not re.fullmatch(r"[A-Za-z]\w*", str(name)) or hasattr(nn.ModuleDict(), str(name)):
            problems.append(
                f"{where} is not a valid task name (letters, digits and _, but not an attribute of "
                f"nn.ModuleDict); rename it, e.g. aux_tasks.{re.sub(r'[^A-Za-z0-9]', '', name)}_1"
            )
        if not isinstance(node, Mapping) or "_target_" not in node:
            problems.append(
                f"{where} does not define a task; set aux_task=[{name}] if conf/aux_task/ has it, "
                f"or +aux_task@{where}=classification (regression, multi_label, ordinal)"
            )
            continue
        cls, problem = find_class(str(node["_target_"]), where, allowed)
        if not problem and not issubclass(cls, AuxiliaryTask):
            problems.append(
                f"{where}._target_={node['_target_']} is not an auxiliary task; set "
                f"{where}._target_=tl_lightning.tasks.auxiliary.single_label.SingleLabel"
            )
    return problems


def task_problems(config: Config, model: type) -> list[str]:
    """Return an error message for every problem of the auxiliary tasks.

    Args:
        config: A configuration whose nodes are each valid.
        model: The class of ``config["model"]``.
    """
    tasks, data = config.get("aux_tasks") or {}, config["data"]
    if not tasks:
        return []
    named, problems = ",".join(tasks), []
    for name, node in tasks.items():
        where, column = f"aux_tasks.{name}", node.get("labels")
        cls = find_class(node["_target_"], where, [*ALLOWED, *config["allow"]])[0]
        problems += cls.check_config(where, node)
        if column is not None and "label_columns" not in data:
            problems.append(
                f"{where}.labels={column} is a label column, but data={data['name']} has none; set "
                f"{where}.labels=null {where}.groups=<table class,label>, or data=csv "
                "for images"
            )
        elif column is not None and column not in data["label_columns"]:
            listed = ",".join([*data["label_columns"], str(column)])
            problems.append(
                f"{where}.labels={column} is not in data.label_columns="
                f"{list(data['label_columns'])}; set data.label_columns=[{listed}]"
            )
    mixed = mixing_keys(data)
    if mixed:
        problems.append(
            f"data.{mixed[0]}={data[mixed[0]]} mixes images and the labels of the main task, but "
            f"not those of aux_task=[{named}]; set data.{mixed[0]}=0, or aux_task=none"
        )
    if issubclass(model, SourceFree):
        problems.append(
            f"model={config['model']['name']} trains without labels, so aux_task=[{named}] would "
            "learn nothing; set aux_task=none"
        )
    return problems + (
        _projection_problems(config, model) if config["task_weighting"] == "pcgrad" else []
    )


def _projection_problems(config: Config, model: type) -> list[str]:
    """Return why the gradients of the tasks cannot be projected (PCGrad)."""
    trainer = config["trainer"]
    reason = "task_weighting=pcgrad computes the gradients of each batch itself"
    settings = {  # the value set, and the only one supported
        "trainer.accumulate_grad_batches": (trainer["accumulate_grad_batches"], 1),
        "trainer.devices": (str(trainer["devices"]), "1"),
        "trainer.num_nodes": (trainer["num_nodes"], 1),
    }
    problems = [
        f"{reason}, which is not supported with {key}={value}; set {key}={supported}, or "
        "task_weighting=fixed"
        for key, (value, supported) in settings.items()
        if value != supported
    ]
    if str(trainer["precision"]) == "16-mixed":
        problems.append(
            f"{reason}, which is not supported with the loss scaling of "
            "trainer.precision=16-mixed; set trainer.precision=bf16-mixed, or task_weighting=fixed"
        )
    alternating = [name for name, cls in method_classes(dict(config)).items() if cls.alternating]
    if alternating:
        problems.append(
            f"{reason}, but method=[{alternating[0]}] takes several optimizer steps per batch; "
            "set task_weighting=fixed"
        )
    if issubclass(model, FeatureExtraction) and config["head"].get("bottleneck") is None:
        problems.append(
            "task_weighting=pcgrad projects the gradients of shared parameters, but "
            f"model={config['model']['name']} with head.bottleneck=null has no trainable shared "
            "parameters; set head.bottleneck=256, or task_weighting=fixed"
        )
    return problems
