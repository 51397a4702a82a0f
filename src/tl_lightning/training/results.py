"""From a finished run to its files: ``report.json``, ``predictions.npz``."""

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

from tl_lightning.callbacks.report_collector import Collect
from tl_lightning.config.identity import identity
from tl_lightning.data.datamodules.base import TransferData
from tl_lightning.distributed.strategy import lr_factor
from tl_lightning.reporting.formatting import BOUND
from tl_lightning.reporting.schema import SCHEMA
from tl_lightning.selection.collapse import WORST
from tl_lightning.selection.rules import SELECTIONS, Selection
from tl_lightning.utils.files import write_json
from tl_lightning.utils.process import versions

__all__ = ["Standing", "group_of", "standing", "write_run"]


def group_of(config: dict[str, Any]) -> str:
    """Return a short hash that runs share when they differ by their seed only."""
    kept = identity(config)
    # The callbacks that change the model, or which one is chosen.
    callbacks = config.get("callbacks") or {}
    kept["average"] = callbacks.get("average")
    if str(SELECTIONS[config["selection"]].monitor).startswith("validator/"):
        kept["validators"] = callbacks.get("validators")
    text = json.dumps(kept, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _start_note(config: dict[str, Any]) -> list[str]:
    own = config["backbone"].get("checkpoint")
    notes = [f"the backbone starts from {own}"] if own else []
    starts = own or config.get("init") or config["backbone"].get("pretrained")
    if not starts and config["model"]["_target_"].endswith(".FeatureExtraction"):
        notes.append(
            "the frozen backbone has random weights: nothing pretrained gives these features"
        )
    if config["track_target"]:
        notes.append(
            "track_target=true: accuracy on labelled target validation was logged for a study"
        )
    if config["lr_find"]:
        notes.append(f"optimizer.lr={config['optimizer']['lr']:.3g} was found by lr_find")
    return notes


def _floor_note(rule: Selection, score: float | None) -> list[str]:
    by_floor = str(rule.monitor).startswith("validator/floored/")
    if not by_floor or score is None or score > WORST + 1:
        return []
    return [
        "every epoch counted as collapsed (callbacks.validators.floor_ratio, least_predicted): the "
        "one that is best on the source was kept"
    ]


@dataclass(frozen=True)
class Standing:
    """What the callbacks know at the end of training.

    The test loads the chosen model's checkpoint, and with it what they knew when it was written.

    Attributes:
        score: Of the chosen model, by the selection rule.
        notes: On batches that were left out.
    """

    score: float | None
    notes: list[str]


def standing(trainer: L.Trainer) -> Standing:
    """Return what the callbacks know; to be asked before the test."""
    score = cast(Any, trainer.checkpoint_callback).best_model_score
    return Standing(None if score is None else float(score), _skip_note(trainer))


def _skip_note(trainer: L.Trainer) -> list[str]:
    callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]
    skipped = [one for callback in callbacks for one in getattr(callback, "skipped", [])]
    if not skipped:
        return []
    names = sorted({name for one in skipped for names in one["files"].values() for name in names})
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return [
        f"{len(skipped)} batches were left out because their loss or gradient was not finite "
        f"(callbacks.finite.on_nan=skip); they show {', '.join(names[:8])}{more}"
    ]


def write_run(
    run_dir: Path,
    config: dict[str, Any],
    chosen: Path,
    warned: list[str],
    *,
    trainer: L.Trainer,
    standing: Standing,
    data: TransferData,
    collect: Collect,
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
            "words": rule.words,
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
            *_floor_note(rule, standing.score),
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
            "quarantined": data.quarantined,
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
    """Return how many processes trained, on which batches, and at which rate."""
    own, steps = config["data"]["batch_size"], config["trainer"]["accumulate_grad_batches"]
    return {
        "processes": world,
        "batch_size": own,
        "accumulated": steps,
        "global_batch": own * steps * world,
        "lr": config["optimizer"]["lr"] * lr_factor(config),
    }


def _parameters(module: L.LightningModule) -> dict[str, int]:
    """Return how many numbers the model has, and how many of them learned at the run's end."""
    sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
    return {"all": sum(n for n, _ in sizes), "learning": sum(n for n, learns in sizes if learns)}
