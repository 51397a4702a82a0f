"""How far the selected model can be trusted: what its checkpoint and the report say of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from numpy.typing import NDArray

from tl_lightning.callbacks.report_collector import Row
from tl_lightning.callbacks.selected_outputs import SelectedOutputs
from tl_lightning.checkpoints.io import amend
from tl_lightning.reliability.assessment import Assessment, Record, assess, finite_temperature
from tl_lightning.reliability.calibration import aurc, calibration_error, confidences
from tl_lightning.utils.callbacks import find_callback

__all__ = ["reliability_entries", "store_outputs"]

Array = NDArray[Any]


def store_outputs(
    trainer: L.Trainer, checkpoint: Path, adapted: bool
) -> tuple[Record | None, Assessment | None]:
    """Store the outputs on source validation in the checkpoint of the tested model, on rank 0.

    Args:
        trainer: After the test; without a test or validation samples nothing is stored.
        checkpoint: Amended with the entry ``reliability``: float16 ``logits`` (N, K) with
            ``labels`` (N,), ``features`` (M, D) of some of these samples with ``feature_labels``
            (M,), the ``temperature`` that calibrates the logits, NaN if they are not finite, and
            ``target_temperature`` of the tested target, found without its labels, and ``adapted``.
        adapted: Whether the model was trained on target samples.

    Returns:
        What was stored, and what it says of the target; None without.

    Raises:
        CheckpointError: If the checkpoint cannot be written.
    """
    outputs = find_callback(trainer, SelectedOutputs)
    stored: dict[str, Any] = outputs.record()
    if stored:
        logits = stored["logits"].double().numpy()
        stored["adapted"] = adapted
        stored["temperature"] = finite_temperature(logits, stored["labels"].numpy())
    record, found = Record.of(stored), None
    if "target" in outputs.kept:
        found = assess(record, outputs.kept["target"][1].double().numpy(), False)
        if stored:
            stored["target_temperature"] = found.temperature
    if stored:
        amend(checkpoint, reliability=stored)
    return record, found


def reliability_entries(
    trainer: L.Trainer,
    record: Record | None,
    found: Assessment | None,
    scores: Mapping[str, Mapping[int, Row]],
) -> dict[str, Any]:
    """Return ``estimated_accuracy``, ``class_mix`` and ``calibration`` of the report.

    Args:
        trainer: After the test.
        record: The outputs on source validation; None without.
        found: What they say of the target; None without a tested target.
        scores: Of the tested samples by domain and index, see :class:`.ReportCollector`.
    """
    entries: dict[str, Any] = {}
    if found is not None:
        given = found.estimate
        entries["estimated_accuracy"] = (
            {"problem": found.problem}
            if given is None
            else {**asdict(given), "warnings": list(given.warnings)}
        )
        if found.mix is not None:
            entries["class_mix"] = {
                "source": found.mix.source.tolist(),
                "target": found.mix.target.tolist(),
                "distance": found.mix.distance,
                "warning": found.mix.warning,
            }
    if record is not None and np.isfinite(record.temperature):
        scales = {"source": record.temperature}
        if found is not None and found.calibrated:
            scales["target"] = found.temperature
        kept = find_callback(trainer, SelectedOutputs).arrays(scores)
        labels = {
            domain: np.array([rows[index][0] for index in sorted(rows)])
            for domain, rows in scores.items()
        }
        entries["calibration"] = {
            "temperature": scales,
            "domains": {
                domain: _errors(
                    kept[f"{domain}_logits"].astype(np.float64),
                    values[kept.get(f"{domain}_logits_row", slice(None))],
                    {"before": 1.0, "source": scales["source"], "after": scales[domain]},
                )
                for domain, values in labels.items()
                if domain in scales and f"{domain}_logits" in kept and (values >= 0).any()
            },
        }
    return entries


def _errors(logits: Array, labels: Array, scales: Mapping[str, float]) -> dict[str, Any]:
    """Return the calibration error at each temperature, and the area under risk and coverage."""
    known = np.isfinite(logits).all(axis=1) & (labels >= 0)
    logits, correct = logits[known], logits[known].argmax(axis=1) == labels[known]
    if not len(logits):
        return {}
    confidence = {name: confidences(logits, scale) for name, scale in scales.items()}
    errors = {name: calibration_error(values, correct) for name, values in confidence.items()}
    return {"ece": errors, "aurc": aurc(confidence["after"], correct)}
