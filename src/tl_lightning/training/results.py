"""Result files of a finished run: ``report.json`` and ``predictions.npz``."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import torch

from tl_lightning.callbacks.report_collector import ReportCollector
from tl_lightning.config.identity import identity
from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.distributed.strategy import lr_factor
from tl_lightning.reporting.formatting import BOUND
from tl_lightning.reporting.schema import SCHEMA
from tl_lightning.selection.collapse import WORST
from tl_lightning.selection.rules import SELECTIONS, Selection
from tl_lightning.utils.files import write_json
from tl_lightning.utils.process import versions

__all__ = ["Standing", "group_of", "standing", "write_run"]


def group_of(config: dict[str, Any]) -> str:
    """Return a short hash that is shared by runs that differ only in their seed."""
    kept = identity(config)
    # Callbacks that change the model or the selection.
    callbacks = config.get("callbacks") or {}
    kept["weight_averaging"] = callbacks.get("weight_averaging")
    if str(SELECTIONS[config["selection"]].monitor).startswith("validator/"):
        kept["validators"] = callbacks.get("validators")
    text = json.dumps(kept, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _start_note(config: dict[str, Any]) -> list[str]:
    checkpoint = config["backbone"].get("checkpoint")
    notes = [f"the backbone starts from {checkpoint}"] if checkpoint else []
    trained = checkpoint or config.get("init") or config["backbone"].get("pretrained")
    if not trained and config["model"]["_target_"].endswith(".FeatureExtraction"):
        notes.append("the frozen backbone has random weights, so its features are not pretrained")
    if config["track_target"]:
        notes.append(
            "track_target=true: accuracy on the labelled target validation split was logged"
        )
    if config["lr_find"]:
        notes.append(f"optimizer.lr={config['optimizer']['lr']:.3g} was found by lr_find")
    return notes


def _collapse_note(rule: Selection, score: float | None) -> list[str]:
    filtered = str(rule.monitor).startswith("validator/floored/")
    if not filtered or score is None or score > WORST + 1:
        return []
    return [
        "every epoch counted as collapsed (callbacks.validators.min_source_ratio, "
        "min_predicted_classes); the epoch with the best source accuracy was kept"
    ]


@dataclass(frozen=True)
class Standing:
    """State of the callbacks at the end of training.

    Testing loads the checkpoint of the selected model, which also restores the callbacks to their
    state when it was written.

    Attributes:
        score: Score of the selected model by the selection rule.
        notes: Notes on skipped batches.
    """

    score: float | None
    notes: list[str]


def standing(trainer: L.Trainer) -> Standing:
    """Return the state of the callbacks; must be called before the test."""
    score = cast(Any, trainer.checkpoint_callback).best_model_score
    return Standing(None if score is None else float(score), _skip_note(trainer))


def _skip_note(trainer: L.Trainer) -> list[str]:
    callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]
    skipped = [batch for callback in callbacks for batch in getattr(callback, "skipped", [])]
    if not skipped:
        return []
    names = sorted({n for batch in skipped for files in batch["files"].values() for n in files})
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return [
        f"{len(skipped)} batch(es) skipped because the loss or a gradient was not finite "
        f"(callbacks.nan_guard.on_nan=skip); they contain {', '.join(names[:8])}{more}"
    ]


def write_run(
    run_dir: Path,
    config: dict[str, Any],
    chosen: Path,
    warned: list[str],
    *,
    trainer: L.Trainer,
    standing: Standing,
    data: TransferDataModule,
    collect: ReportCollector,
    timing: dict[str, float],
    features: dict[str, dict[str, float]],
    baseline_of: str | None,
) -> dict[str, Any]:
    """Write ``predictions.npz`` and ``report.json`` into ``run_dir``; return the report."""
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    steps = int(trainer.global_step)
    stored = torch.load(chosen, map_location="cpu", weights_only=True)
    rule = SELECTIONS[config["selection"]]
    report = {
        "schema": SCHEMA,
        "kind": "run",
        "status": "finished",
        "name": config["model"]["name"],
        "data": data.name,
        "seed": config["seed"],
        "group": group_of(config),
        "baseline_of": baseline_of,
        "selection": {
            "rule": config["selection"],
            "words": rule.description,
            "uses_target_labels": rule.uses_target_labels,
            "monitor": rule.monitor,
            "value": standing.score,
            "epoch": int(stored["epoch"]),
            "checkpoint": os.path.relpath(chosen, run_dir),
        },
        "tracks_target": config["track_target"],
        "metrics": {
            **{name: value for name, value in metrics.items() if "/test/" in name},
            **collect.distances(),
        },
        "projection": collect.projection,
        "learned_from": data.learn_from,
        "notes": [
            *([BOUND] if data.learn_from == "target" else []),
            *data.notes(bool(config["backbone"].get("pretrained"))),
            *_start_note(config),
            *_collapse_note(rule, standing.score),
            *standing.notes,
        ],
        "warnings": warned,
        "timing": {**timing, "steps": steps},
        "versions": versions(),
        "device": f"{config['trainer']['accelerator']}, {config['trainer']['precision']}",
        "scale": _scale(config, trainer.world_size),
        "parameters": _parameters(trainer.lightning_module),
        "forward": config["model"].get("forward", "source only"),
        "dataset": {
            "classes": list(data.classes),
            "counts": data.counts(),
            "fingerprint": data.fingerprint(),
            "quarantined": data.unreadable,
            "features": features,
            "cached": {role: len(cache) for role, cache in data.caches.items()},
        },
        "config": config,
    }
    arrays = run_dir / "predictions.npz"
    draft = arrays.with_suffix(".tmp.npz")
    np.savez_compressed(draft, **collect.arrays())  # type: ignore[arg-type]
    os.replace(draft, arrays)
    write_json(run_dir / "report.json", report)
    return report


def _scale(config: dict[str, Any], world: int) -> dict[str, Any]:
    """Return the number of processes, the batch sizes and the scaled learning rate."""
    size, steps = config["data"]["batch_size"], config["trainer"]["accumulate_grad_batches"]
    return {
        "processes": world,
        "batch_size": size,
        "accumulated": steps,
        "global_batch": size * steps * world,
        "lr": config["optimizer"]["lr"] * lr_factor(config),
    }


def _parameters(module: L.LightningModule) -> dict[str, int]:
    """Return the number of parameters, and how many were trainable at the end of the run."""
    sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
    return {
        "all": sum(n for n, _ in sizes),
        "learning": sum(n for n, trainable in sizes if trainable),
    }
