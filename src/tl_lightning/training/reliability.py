"""What a run stores beside its model: outputs of source validation, and their temperature."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import numpy as np

from tl_lightning.callbacks.selected_outputs import SelectedOutputs
from tl_lightning.checkpoints.io import amend
from tl_lightning.selection.scores import temperature
from tl_lightning.utils.callbacks import find_callback

__all__ = ["store_outputs"]


def store_outputs(trainer: L.Trainer, checkpoint: Path) -> None:
    """Store the outputs on source validation in the checkpoint of the tested model, on rank 0.

    Args:
        trainer: After the test; without a test or validation samples nothing is stored.
        checkpoint: Amended with the entry ``reliability``: float16 ``logits`` (N, K) with
            ``labels`` (N,), ``features`` (M, D) of some of these samples with ``feature_labels``
            (M,), and the ``temperature`` that calibrates the logits, NaN if they are not finite.

    Raises:
        CheckpointError: If the checkpoint cannot be written.
    """
    record = find_callback(trainer, SelectedOutputs).record()
    if not record:
        return
    logits = record["logits"].float().numpy()
    finite = np.isfinite(logits).all()
    found = temperature(logits, record["labels"].numpy()) if finite else float("nan")
    amend(checkpoint, reliability={**record, "temperature": found})
