"""Result files of a finished run: ``report.json``, ``predictions.npz`` and ``.csv``."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from numpy.typing import NDArray

from tl_lightning.callbacks.explanations import Explanations
from tl_lightning.callbacks.model_checkpoint import START
from tl_lightning.callbacks.rollback import Rollback
from tl_lightning.callbacks.selected_outputs import SelectedOutputs
from tl_lightning.config.identity import identity
from tl_lightning.config.schema import RunConfig
from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.data.named_domains import domain_counts
from tl_lightning.data.summary import unlabelled
from tl_lightning.distributed.strategy import num_processes
from tl_lightning.models.adaptation import SourceFree
from tl_lightning.models.supervised import FeatureExtraction
from tl_lightning.reliability.accuracy import trains_on_target
from tl_lightning.reporting.artifacts import Predictions
from tl_lightning.reporting.estimates import reliability_entries
from tl_lightning.reporting.formatting import BOUND
from tl_lightning.reporting.schema import SCHEMA
from tl_lightning.selection.collapse import WORST
from tl_lightning.selection.rules import Selection, rule_of
from tl_lightning.tasks.label_task import LabelTask
from tl_lightning.training.build import Parts
from tl_lightning.training.class_set_report import class_set_entries
from tl_lightning.training.head_start import Start
from tl_lightning.training.limits import still_falling, untested
from tl_lightning.training.neighbours import neighbour_arrays
from tl_lightning.training.number_report import number_entries
from tl_lightning.training.predictions import summary_of, write_predictions
from tl_lightning.training.reliability import store_outputs
from tl_lightning.training.trainer import make_trainer
from tl_lightning.utils.callbacks import find_callback
from tl_lightning.utils.files import full_disk_means, write_json
from tl_lightning.utils.process import versions
from tl_lightning.utils.text import shorten

__all__ = ["Result", "SelectionState", "group_of", "selection_state", "write_run"]


def group_of(run: RunConfig) -> str:
    """Return a short hash that is shared by runs that differ only in their seed."""
    kept = identity(run.plain)
    # Callbacks that change the model or the selection.
    callbacks = run.plain["callbacks"] or {}
    kept |= {name: callbacks.get(name) for name in ("weight_averaging", "rollback")}
    if str(rule_of(run.selection, run.task.kind).monitor).startswith("validator/"):
        kept["validators"] = callbacks.get("validators")
    text = json.dumps(kept, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _start_notes(run: RunConfig) -> list[str]:
    checkpoint = run.backbone.consumed.get("checkpoint")
    notes = [f"the backbone starts from {checkpoint}"] if checkpoint else []
    trained = checkpoint or run.init or run.pretrained
    if not trained and issubclass(run.model.cls, FeatureExtraction):
        notes.append("the frozen backbone has random weights, so its features are not pretrained")
    if run.track_target:
        notes.append(
            "track_target=true: accuracy on the labelled target validation split was logged"
        )
    if run.lr_find:
        notes.append(f"optimizer.lr={run.lr:.3g} was found by lr_find")
    if run.trainer.fast_dev_run:
        notes.append("trainer.fast_dev_run: a dry run of a few batches; its figures mean nothing")
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
class SelectionState:
    """State of the callbacks at the end of training.

    Testing loads the checkpoint of the selected model, which also restores the callbacks to their
    state when it was written.

    Attributes:
        score: Score of the selected model by the selection rule.
        source_val: Its accuracy on source validation, where the rule compares epochs.
        notes: Notes on skipped batches and roll-backs.
    """

    score: float | None
    source_val: float
    notes: list[str]


def selection_state(trainer: L.Trainer, notes: Sequence[str] = ()) -> SelectionState:
    """Return the state of the callbacks, with these notes; must be called before the test."""
    checkpoint = cast(Any, trainer.checkpoint_callback)
    score = None if checkpoint.best_model_score is None else float(checkpoint.best_model_score)
    notes = [*notes, *_skip_note(trainer), *_rollback_notes(trainer)]
    return SelectionState(score, float(checkpoint.kept_source_acc), notes)


def _skip_note(trainer: L.Trainer) -> list[str]:
    callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]
    skipped = [batch for callback in callbacks for batch in getattr(callback, "skipped", [])]
    if not skipped:
        return []
    names = sorted({n for batch in skipped for files in batch["files"].values() for n in files})
    return [
        f"{len(skipped)} batch(es) skipped because the loss or a gradient was not finite "
        f"(callbacks.nan_guard.on_nan=skip); they contain {shorten(names, 8)}"
    ]


def _rollback_notes(trainer: L.Trainer) -> list[str]:
    rollback = find_callback(trainer, Rollback)
    return [] if rollback is None else list(rollback.notes())


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        parts: What was trained.
        checkpoint: The selected checkpoint.
        selection: State of the callbacks at the end of training.
        timing: Seconds by part of the run.
        features: What was stored of each split, see :func:`.feature_extraction.fill`.
        warnings: Warnings caught during the run.
        baseline_of: Name of the adapted model that this run is a baseline of, if any.
        start: The models that it started from.
        initial: Test metrics of the trained model that a source-free run adapts, otherwise empty.
    """

    parts: Parts
    checkpoint: Path
    selection: SelectionState
    timing: dict[str, float]
    features: dict[str, dict[str, float]]
    warnings: list[str]
    baseline_of: str | None
    start: Start
    initial: Mapping[str, float] = field(default_factory=dict)


def initial_metrics(parts: Parts) -> dict[str, float]:
    """Test the model that a source-free run adapts, before it is trained.

    Empty for other models, without test labels or tests, and on several devices, whose processes
    belong to the run's own trainer.
    """
    run, data = parts.run, parts.data
    adapts = issubclass(run.model.cls, SourceFree) and run.test
    if not adapts or num_processes(run.trainer) > 1 or not data.found["target"].test.has_labels:
        return {}
    tester = make_trainer(run.trainer, logger=False, enable_checkpointing=False, callbacks=[])
    with isolate_rng():
        tester.test(parts.module, datamodule=data, verbose=False)
    return {name: float(value) for name, value in tester.callback_metrics.items()}


def write_run(run_dir: Path, result: Result) -> dict[str, Any]:
    """Write the predictions and ``report.json`` into ``run_dir``; return the report.

    The selected checkpoint gets the outputs on source validation.

    Raises:
        CheckpointError: If the checkpoint cannot be written.
        DataError: If the disk is full.
    """
    arrays = _arrays(result.parts) if result.parts.run.test else {}
    if isinstance(result.parts.module.task, LabelTask):
        entries = number_entries(result.parts, arrays)
    else:
        found = store_outputs(result.parts.trainer, result.checkpoint, _adapted(result.parts))
        predictions = Predictions(arrays, list(result.parts.data.classes))
        entries = reliability_entries(*found, predictions)
        entries |= class_set_entries(result.parts, found[0], entries)
    report = _report(run_dir, result) | entries
    with full_disk_means(
        f"the disk of {run_dir} is full, so the results were not written; the checkpoints are "
        "intact: free some disk space and repeat the command with resume=auto "
        f"hydra.run.dir={run_dir}"
    ):
        if result.parts.run.test:
            _write_arrays(run_dir / "predictions.npz", arrays)
            _write_arrays(run_dir / "neighbours.npz", _neighbours(result.parts))
            write_predictions(
                run_dir / "predictions.csv", result.parts.data, result.parts.collector
            )
        write_json(run_dir / "report.json", report)
    return report


def _adapted(parts: Parts) -> bool:
    """Return whether the model was trained on target samples, with or without their labels."""
    target = parts.data.found.get("target")
    if "target" in parts.run.model.cls.unseen:
        return False
    few = target is not None and target.labelled is not None
    return few or parts.data.learn_from == "target" or trains_on_target(parts.run.methods)


def _arrays(parts: Parts) -> dict[str, NDArray[Any]]:
    collector = parts.collector
    outputs = find_callback(parts.trainer, SelectedOutputs)
    explanations = find_callback(parts.trainer, Explanations)
    logits = {} if outputs is None else outputs.arrays(collector.scores)
    return {**collector.arrays(), **logits, **explanations.arrays()}


def _neighbours(parts: Parts) -> dict[str, NDArray[Any]]:
    side = find_callback(parts.trainer, Explanations).thumbnails
    outputs = find_callback(parts.trainer, SelectedOutputs)
    return neighbour_arrays(outputs, parts.data, side) if side and outputs else {}


def _write_arrays(file: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write arrays to an archive; at any time it is the old or the new one. None: remove it."""
    if not arrays:
        file.unlink(missing_ok=True)
        return
    draft = file.with_suffix(".tmp.npz")
    try:
        np.savez_compressed(draft, **arrays)  # type: ignore[arg-type]
        os.replace(draft, file)
    finally:
        draft.unlink(missing_ok=True)


def _report(run_dir: Path, result: Result) -> dict[str, Any]:
    run, data, trainer = result.parts.run, result.parts.data, result.parts.trainer
    collector = result.parts.collector
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {
        "schema": SCHEMA,
        "kind": "run",
        "status": "finished",
        "name": run.name,
        "data": data.name,
        "task": run.task.kind,
        "seed": run.seed,
        "group": group_of(run),
        "baseline_of": result.baseline_of,
        "selection": _selection(run_dir, result),
        "start": _start(result),
        "tracks_target": run.track_target,
        "metrics": {
            **{name: value for name, value in metrics.items() if "/test/" in name},
            **collector.distances(),
        },
        "predicted": summary_of(data, collector),
        "projection": collector.projection,
        "learned_from": data.learn_from,
        "unseen": sorted(run.model.cls.unseen),
        "source_free": issubclass(run.model.cls, SourceFree),
        "initial": dict(result.initial),
        "notes": [*_notes(result), *still_falling(run_dir, data.fitted)],
        "warnings": result.warnings,
        "timing": {
            **result.timing,
            "explanations_s": find_callback(trainer, Explanations).seconds,
            "steps": int(trainer.global_step),
        },
        "versions": versions(),
        "device": f"{run.trainer.accelerator}, {run.trainer.precision}",
        "scale": _scale(run, data.batch_size, trainer.world_size, result.parts.module.lr),
        "parameters": _parameters(trainer.lightning_module),
        "forward": run.model.params.get("forward", "source only"),
        "dataset": {
            "classes": list(data.classes),
            "unknown": _unknown(data),
            "counts": data.counts(),
            "unlabelled": unlabelled(data.found),
            "domains": {name: domain_counts(found) for name, found in data.found.items()},
            "fingerprint": data.fingerprint(),
            "quarantined": data.unreadable,
            "features": result.features,
            "cached": {name: len(cache) for name, cache in data.caches.items()},
        },
        "config": run.stored,
    }


def _selection(run_dir: Path, result: Result) -> dict[str, Any]:
    rule = rule_of(result.parts.run.selection, result.parts.run.task.kind)
    before = result.checkpoint.stem.endswith(START)
    mixed = next((one.alpha for one in result.start.interpolated if one.chosen), None)
    stored = torch.load(result.checkpoint, map_location="cpu", weights_only=True)
    return {
        "rule": result.parts.run.selection,
        "description": rule.description,
        "uses_target_labels": rule.uses_target_labels,
        "monitor": rule.monitor,
        "value": result.selection.score,
        "source_val": result.selection.source_val,
        "epoch": -1 if before else int(stored["epoch"]),
        **({} if mixed is None else {"alpha": mixed}),
        "checkpoint": os.path.relpath(result.checkpoint, run_dir),
    }


def _start(result: Result) -> dict[str, Any]:
    """Return the models before training, with their accuracy where there are test labels."""
    data = result.parts.data
    return {
        "chosen": result.start.chosen,
        "candidates": [
            {
                "name": one.name,
                "scores": dict(one.scores),
                "metrics": {
                    f"{domain}/test/acc": _accuracy(predicted, labels, len(data.classes))
                    for domain, predicted in one.predictions.items()
                    if result.parts.run.test
                    and (labels := data.found[domain].test.labels) is not None
                },
            }
            for one in result.start.candidates
        ],
        "interpolated": [asdict(one) for one in result.start.interpolated],
        "selected": result.start.selected,
    }


def _unknown(data: TransferDataModule) -> str | None:
    """Return the name of the target's samples of no class of the source, if it has any."""
    names = data.found["target"].classes if "target" in data.found else ()
    return names[-1] if len(names) > len(data.classes) else None


def _accuracy(predicted: NDArray[Any], labels: NDArray[np.int64], classes: int) -> float:
    """Return the accuracy on the samples of known classes."""
    known = labels < classes
    return float(np.mean(predicted[known] == labels[known])) if known.any() else 0.0


def _notes(result: Result) -> list[str]:
    run, data = result.parts.run, result.parts.data
    return [
        *([BOUND] if data.learn_from == "target" else []),
        *data.notes(run.pretrained),
        *_start_notes(run),
        *_collapse_note(rule_of(run.selection, run.task.kind), result.selection.score),
        *result.selection.notes,
        *(untested(result.parts.trainer, data) if run.test else []),
    ]


def _scale(run: RunConfig, size: int, world: int, lr: float) -> dict[str, Any]:
    """Return the number of processes, the batch sizes and the scaled learning rate."""
    steps = run.trainer.accumulate_grad_batches
    return {
        "processes": world,
        "batch_size": size,
        "accumulated": steps,
        "global_batch": size * steps * world,
        "lr": lr,
    }


def _parameters(module: L.LightningModule) -> dict[str, int]:
    """Return the number of parameters, and how many were trainable at the end of the run."""
    sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
    return {
        "all": sum(n for n, _ in sizes),
        "learning": sum(n for n, trainable in sizes if trainable),
    }
