"""Export of a trained model from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from tl_lightning.inference.export.settings import Settings
from tl_lightning.inference.export.write import export_model

__all__ = ["export"]


def export(
    checkpoint: str | Path,
    out: str | Path,
    *,
    format: Literal["onnx", "torch_export", "safetensors"] = "onnx",
    precision: Literal["float32", "float16", "bfloat16", "int8"] = "float32",
    resize: bool | None = None,
    abstain: float | None = None,
    samples: str | Path | None = None,
    max_loss: float | None = None,
    allow: Sequence[str] = (),
) -> dict[str, Any]:
    """Write a model for other programs, if its file computes what the checkpoint does.

    Args:
        checkpoint: A checkpoint or run folder.
        out: New folder, or new file with the suffix of the format.
        format: Of the file.
        precision: Of weights and computation.
        resize: Whether the network resizes and crops images of any size (``torch_export`` only);
            None: if it can.
        abstain: Fraction of the predictions that should be right, to store the threshold for it.
        samples: Folder of images, or file of texts or vectors, to compare with the checkpoint on;
            None: those of the run.
        max_loss: Largest loss of accuracy of a reduced precision.
        allow: Full names of additional classes that the checkpoint's configuration may build.

    Returns:
        The content of ``model.json``, see docs/export.md; ``parity`` has what was measured.
    """
    settings = Settings(
        Path(out).expanduser(),
        format=format,
        precision=precision,
        resize="auto" if resize is None else str(resize).lower(),
        abstain=abstain,
        samples=None if samples is None else Path(samples).expanduser(),
        max_loss=max_loss,
        allow=allow,
    )
    return export_model(checkpoint, settings)
