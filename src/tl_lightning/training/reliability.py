"""How far the selected model can be trusted: what its checkpoint and the report say of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L

from tl_lightning.callbacks.selected_outputs import SelectedOutputs
from tl_lightning.checkpoints.io import amend, read_checkpoint
from tl_lightning.errors import DataError
from tl_lightning.reliability.assessment import Assessment, Record, assess, finite_temperature
from tl_lightning.reporting.estimates import another_model, compared, read_stored_run, same_samples
from tl_lightning.utils.callbacks import find_callback
from tl_lightning.utils.files import read_json, write_json

__all__ = ["compare_models", "store_outputs"]

#: Folders of a run that contain other models.
_OTHERS = ("baselines", "candidates")


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
        adapted: Whether the run trained on target samples; a model that it started from may have
            been trained on them, too.

    Returns:
        What was stored, and what it says of the target; None without.

    Raises:
        CheckpointError: If the checkpoint cannot be written.
    """
    outputs = find_callback(trainer, SelectedOutputs)
    stored: dict[str, Any] = outputs.record()
    if stored:
        logits = stored["logits"].double().numpy()
        stored["adapted"] = adapted or bool(outputs.starts_adapted)
        stored["temperature"] = finite_temperature(logits, stored["labels"].numpy())
    record, found = Record.of(stored), None
    if "target" in outputs.kept:
        found = assess(record, outputs.kept["target"][1].double().numpy(), False)
        if stored:
            stored["target_temperature"] = found.temperature
    if stored:
        amend(checkpoint, reliability=stored)
    return record, found


def compare_models(folder: Path) -> dict[str, Any]:
    """Compare the model of a finished run with its baselines and candidates, for its estimate.

    A model that is certain of wrong predictions is recognised by comparison, see
    :func:`.estimate_accuracy`. Updates ``report.json`` and the target's temperature in the
    checkpoint. Repeating it changes nothing.

    Returns:
        The new entries of the report; empty without another model on the same samples.

    Raises:
        CheckpointError: If the checkpoint cannot be written.
        DataError: If a file of the run is damaged.
    """
    paths = [path for name in _OTHERS for path in sorted((folder / name).glob("*"))]
    run = read_stored_run(folder) if paths else None
    if run is None:
        return {}
    others, warnings = [], []
    for path in paths:
        try:
            other = read_stored_run(path)
        except DataError as error:
            warnings.append(f"{path.name} was not compared: {error}.")
            continue
        if other is not None and another_model(run, other) and not same_samples(run, other):
            warnings.append(f"{path.name} was not compared: it was tested on other samples.")
        elif other is not None:
            others.append(other)
    entries = compared(run, others, folder)
    if warnings and "estimated_accuracy" in run.report:
        entries.setdefault("estimated_accuracy", {**run.report["estimated_accuracy"]})
        known = entries["estimated_accuracy"].get("warnings") or []
        entries["estimated_accuracy"]["warnings"] = [
            *(text for text in known if text not in warnings), *warnings
        ]  # fmt: skip
    if not entries:
        return {}
    _store_temperature(folder / run.report["selection"]["checkpoint"], entries)
    file = folder / "report.json"
    write_json(file, {**read_json(file), **entries})
    return entries


def _store_temperature(checkpoint: Path, entries: Mapping[str, Any]) -> None:
    """Store the temperature of the compared estimate in the checkpoint."""
    found = ((entries.get("calibration") or {}).get("temperature") or {}).get("target")
    if found is None or not checkpoint.is_file():
        return
    stored = read_checkpoint(checkpoint).get("reliability") or {}
    if stored and stored.get("target_temperature") != found:
        amend(checkpoint, reliability={**stored, "target_temperature": found})
