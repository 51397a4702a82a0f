"""The whole, top to bottom: check a configuration, build it, fit it, load what it left."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn
from omegaconf import DictConfig

from tl_lightning import results
from tl_lightning.building import (
    Parts,
    build,
    build_data,
    build_module,
    further_facts,
    make_trainer,
    plan_features,
)
from tl_lightning.callbacks.storage import read_checkpoint
from tl_lightning.checks import ALLOWED, check_nodes
from tl_lightning.errors import ConfigError
from tl_lightning.extraction import fill
from tl_lightning.faults import explained
from tl_lightning.finder import with_found_rate
from tl_lightning.interruption import signals
from tl_lightning.modules.base import TransferModule
from tl_lightning.resuming import resume_point
from tl_lightning.runtime import gathered_warnings, keep_memory, quiet, rank, single_job_argv
from tl_lightning.settings import GIVEN, TAKEN, Config, check
from tl_lightning.shape_faults import known_only
from tl_lightning.trust import stored_faults

__all__ = [
    "Parts",
    "TransferModule",
    "build",
    "build_data",
    "build_module",
    "check",
    "evaluate",
    "fit",
    "load",
    "stored",
]


def fit(
    cfg: DictConfig | Mapping[str, Any],
    run_dir: Path,
    baseline_of: str = "",
    watching: Sequence[L.Callback] = (),
) -> Config:
    """Train, choose by the selection rule, test the chosen model, write the report.

    Args:
        cfg: The composed configuration.
        run_dir: The run's folder; everything is written below it.
        baseline_of: Name of the adapted run that this one stands beside, if any.
        watching: Callbacks besides those of the configuration.

    Returns:
        The report, as in ``report.json``; an empty mapping on ranks other than 0.
    """
    started = time.monotonic()
    quiet()
    keep_memory()
    config = check(cfg)
    warned: list[str] = []
    with gathered_warnings(warned), single_job_argv(config["resume"]), signals.watched():
        resumed, behind = resume_point(config, run_dir)
        try:
            config = with_found_rate(config, run_dir, resumed)
            parts = build(config, run_dir)
            cast(Any, parts.trainer).callbacks.extend(watching)
            begun = time.monotonic()
            stored = fill(parts.features, parts.module, parts.data, parts.trainer)
            filled = time.monotonic()
            parts.trainer.fit(parts.module, datamodule=parts.data, ckpt_path=resumed)
            fitted, standing = time.monotonic(), results.standing(parts.trainer)
            chosen = _chosen(parts.trainer)
            parts.trainer.test(
                parts.module, datamodule=parts.data, ckpt_path=str(chosen), verbose=False
            )
            ended = time.monotonic()
        except (MemoryError, OSError, RuntimeError) as error:
            sentence = explained(error, config)
            if sentence is None:
                raise
            signals.end_other_ranks()
            raise sentence from error
        except SystemExit as end:
            # Lightning ends with 1 here, without a word.
            if isinstance(end.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise
    if rank() != 0:
        return {}
    timing = {
        "total_s": ended - started,
        "features_s": filled - begun,
        "fit_s": fitted - filled,
        "test_s": ended - fitted,
        # Of this process, as the seconds are, not of what a resumed run has behind it.
        "from_step": behind,
        "steps_per_s": (parts.trainer.global_step - behind) / max(1e-9, fitted - filled),
    }
    return results.write_run(
        run_dir,
        config,
        chosen,
        warned,
        trainer=parts.trainer,
        standing=standing,
        data=parts.data,
        collect=parts.collect,
        timing=timing,
        features=stored,
        baseline_of=baseline_of or None,
    )


def stored(cfg: DictConfig | Mapping[str, Any], folder: Path) -> Parts:
    """Build a configuration and store the features of its frozen backbone; nothing trains."""
    quiet()
    keep_memory()
    config = check(cfg)
    with signals.watched():
        parts = build(config, folder)
        parts.data.train_on = tuple(parts.data.roles)  # also what no head would train on
        parts.features = plan_features(config, parts.module, parts.data)
        fill(parts.features, parts.module, parts.data, parts.trainer)
    return parts


def _chosen(trainer: L.Trainer) -> Path:
    checkpoint: Any = trainer.checkpoint_callback
    if checkpoint.monitor is not None and not checkpoint.best_model_path:
        rank_zero_warn(
            f"no epoch was validated to its end, so there is no {checkpoint.monitor} to choose by, "
            "and the last model is tested; train longer, or type selection=last"
        )
    return Path(checkpoint.best_model_path or checkpoint.last_model_path)


#: What of a stored configuration a model needs nothing of.
_NOT_BUILT = ("data", "trainer", "callbacks", "logger")


def load(checkpoint: str | Path, allow: Sequence[str] = ()) -> TransferModule:
    """Rebuild a trained model from the configuration inside its checkpoint, in evaluation mode.

    Nothing in the file is executed (``weights_only=True``), and its configuration builds no class
    but those that ``conf/`` names.

    Args:
        checkpoint: A ``.ckpt`` file of ours.
        allow: Full names of further classes that it may build.

    Raises:
        CheckpointError: If the file is missing, broken or not one of ours.
        ConfigError: If its configuration names anything that may not be built.
    """
    stored = read_checkpoint(Path(checkpoint))
    saved = stored["hyper_parameters"]
    config: Config = {**saved["config"], "allow": list(allow)}  # whatever it would allow itself
    built = {key: value for key, value in config.items() if key not in _NOT_BUILT}
    # Nothing is imported before the names have been judged.
    faults = stored_faults(built, allow)
    faults = faults or check_nodes(built, GIVEN, [*ALLOWED, *allow], TAKEN)
    if faults:
        raise ConfigError([f"checkpoint {checkpoint}: {fault}" for fault in faults])
    module = build_module(
        config,
        tuple(saved["classes"]),
        pretrained=False,
        restored_by=stored.get("restored_by"),
        further=saved.get("tasks") or {},
    )
    module.load_state_dict(stored["state_dict"])
    module.inputs = stored.get("inputs") or {}
    return module.eval()


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
    config["model"] = {"_target_": "tl_lightning.modules.FineTuning", "name": "evaluated"}
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
