"""Test of a checkpoint on its own data or on other data."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tl_lightning.config.allowlist import stored_problems
from tl_lightning.config.schema import drop_unknown_keys
from tl_lightning.config.validation.check import check
from tl_lightning.errors import ConfigError
from tl_lightning.evaluation.load import load
from tl_lightning.training.build import aux_label_info, build_data, make_trainer
from tl_lightning.types import Config
from tl_lightning.utils.process import keep_memory, quiet
from tl_lightning.utils.signals import signals

__all__ = ["evaluate"]


def evaluate(
    checkpoint: str | Path,
    data: Config | None,
    trainer: Config | None,
    allow: Sequence[str] = (),
) -> Config:
    """Test a checkpoint; without other data or trainer, reproduce the test metrics of its run.

    Args:
        checkpoint: A ``.ckpt`` file written by this framework.
        data: Data node to use instead of the checkpoint's.
        trainer: Trainer node to use instead of the checkpoint's.
        allow: Full names of additional classes that the checkpoint's configuration may build.

    Returns:
        ``{"metrics": {...}, "data": name, "classes": [...]}``.

    """
    quiet()
    keep_memory()
    module = load(checkpoint, allow)
    saved: Any = module.hparams
    config = copy.deepcopy(dict(saved["config"]))
    replaced = {"data": data, "trainer": trainer}
    stored = {key: config[key] for key, node in replaced.items() if not node}
    if problems := stored_problems(stored, allow):
        raise ConfigError([f"checkpoint {checkpoint}: {problem}" for problem in problems])
    config |= {key: node for key, node in replaced.items() if node}
    for group in ("callbacks", "logger"):  # not built here, only checked
        nodes = (config.get(group) or {}).items()
        config[group] = {k: v for k, v in nodes if v and not stored_problems({group: {k: v}})}
    config["cache"] = {**config["cache"], "features": "off"}  # each image is used only once
    config.pop("lr_find", None)
    # Auxiliary tasks whose label column these data do not have are left out.
    columns, tasks = config["data"].get("label_columns") or (), config.get("aux_tasks") or {}
    config["aux_tasks"] = {
        name: node for name, node in tasks.items() if node["labels"] in (None, *columns)
    }
    config["task_weighting"] = "fixed"
    # Nothing is trained or selected here: the data need no target, and no training setting counts.
    config |= {"selection": "last", "track_target": False, "method": {}, "baselines": []}
    config["model"] = {"_target_": "tl_lightning.models.FineTuning", "name": "evaluated"}
    config["data"] = {**config["data"], "batch_size": 1}  # there may be too few samples for more
    config.pop("phases", None)
    config["callbacks"].pop("weight_averaging", None)
    config["checkpointing"] = {**config["checkpointing"], "every_n_epochs": 1}
    config = check(drop_unknown_keys(config))
    found = build_data(config)
    found.learned = dict(module.inputs)
    found.discover()
    if list(found.classes) != list(saved["classes"]):
        raise ConfigError(
            f"checkpoint={checkpoint} was trained on the classes "
            f"{', '.join(saved['classes'][:5])}, ..., but data={found.name} has "
            f"{', '.join(found.classes[:5])}, ...; use data with the same classes"
        )
    aux_label_info(config, found, saved.get("aux_tasks"))
    roles = tuple(role for role in module.train_on if role == "source" or config["data"]["target"])
    found.attach(module.backbone.input_spec, roles, ("source",))
    tester = make_trainer(
        config,
        config["trainer"],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
    )
    with signals.watched():
        tester.test(module, datamodule=found, verbose=False)
    metrics = {name: float(value) for name, value in tester.callback_metrics.items()}
    return {"metrics": metrics, "data": found.name, "classes": list(found.classes)}
