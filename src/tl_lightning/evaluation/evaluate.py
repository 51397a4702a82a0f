"""Test a checkpoint on its own data or on others."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tl_lightning.config.allowlist import stored_faults
from tl_lightning.config.schema import known_only
from tl_lightning.config.validation.check import check
from tl_lightning.errors import ConfigError
from tl_lightning.evaluation.load import load
from tl_lightning.training.build import (
    build_data,
    further_facts,
    make_trainer,
)
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
    """Test a checkpoint; on its own data with its own settings, the run's own test figures.

    Args:
        checkpoint: A ``.ckpt`` file of ours.
        data: A data node to test on instead of the checkpoint's own.
        trainer: A trainer node instead of the checkpoint's own.
        allow: Full names of further classes that the checkpoint's configuration may build.

    Returns:
        ``{"metrics": {...}, "data": name, "classes": [...]}``.
    """
    quiet()
    keep_memory()
    module = load(checkpoint, allow)
    saved: Any = module.hparams
    config = copy.deepcopy(dict(saved["config"]))
    taken = {"data": data, "trainer": trainer}
    own = {key: config[key] for key, node in taken.items() if not node}
    if faults := stored_faults(own, allow):
        raise ConfigError([f"checkpoint {checkpoint}: {fault}" for fault in faults])
    config |= {key: node for key, node in taken.items() if node}
    for group in ("callbacks", "logger"):  # neither is built here
        nodes = (config.get(group) or {}).items()
        config[group] = {k: v for k, v in nodes if v and not stored_faults({group: {k: v}})}
    config["cache"] = {**config["cache"], "features": "off"}  # each picture is seen once
    config.pop("lr_find", None)
    # Tasks whose column these data do not have are left out.
    columns, tasks = config["data"].get("others") or (), config.get("tasks") or {}
    config["tasks"] = {
        name: node for name, node in tasks.items() if node["labels"] in (None, *columns)
    }
    config["balance"] = "fixed"
    # Nothing learns or is chosen here, so the data need no target, and this trainer's epochs mean
    # nothing.
    config |= {"selection": "last", "track_target": False, "adapter": {}, "bracket": []}
    config["model"] = {"_target_": "tl_lightning.models.FineTuning", "name": "evaluated"}
    config["data"] = {**config["data"], "batch_size": 1}  # of training, which may be too few
    config.pop("phases", None)
    config["callbacks"].pop("average", None)
    config["checkpoint"] = {**config["checkpoint"], "every_n_epochs": 1}
    config = check(known_only(config))
    found = build_data(config)
    found.learned = dict(module.inputs)
    found.discover()
    if list(found.classes) != list(saved["classes"]):
        raise ConfigError(
            f"checkpoint={checkpoint} knows the classes {', '.join(saved['classes'][:5])}, ..., "
            f"data={found.name} has {', '.join(found.classes[:5])}, ...; test on data with the "
            "same classes"
        )
    further_facts(config, found, saved.get("tasks"))
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
