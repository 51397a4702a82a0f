"""Predictions of a trained model for texts or image files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tl_lightning.errors import ConfigError

__all__ = ["Prediction", "predictions"]

#: Batch size.
BATCH = 64

#: What to do instead, by the input type of the model.
_HINTS = {
    "texts": "set text=<text>",
    "images": "set images=<file or folder>",
    "vectors": "run tl-evaluate checkpoint=<file.ckpt> data=vectors data.source.train=<file>",
}

#: The text or image path, the predicted class and its probability.
Prediction = tuple[str, str, float]


def predictions(
    checkpoint: str | Path, samples: Sequence[str] | Sequence[Path]
) -> list[Prediction]:
    """Return the predictions of a model for texts or image files, in the given order.

    Args:
        checkpoint: A checkpoint or run folder.
        samples: Texts, or paths of images.

    Raises:
        CheckpointError: If the checkpoint is not found.
        ConfigError: If the model expects another kind of input.
    """
    import torch

    from tl_lightning.checkpoints.warm_start import checkpoint_of
    from tl_lightning.evaluation.load import load
    from tl_lightning.types import InputSpec, TextSpec

    module = load(checkpoint_of(Path(checkpoint), "checkpoint"))
    spec: Any = module.backbone.input_spec
    given = "texts" if samples and isinstance(samples[0], str) else "images"
    kinds = {TextSpec: "texts", InputSpec: "images"}
    expected = kinds.get(type(spec), "vectors")
    if given != expected:
        problem = f"the model of checkpoint={checkpoint} expects {expected}, got {given}"
        raise ConfigError(f"{problem}; {_HINTS[expected]}")
    saved: Any = module.hparams
    module.to("cuda" if torch.cuda.is_available() else "cpu")
    out: list[Prediction] = [("", "", 0.0)] * len(samples)
    with torch.inference_mode():
        for indices, inputs in _batches(samples, spec):
            probabilities, labels = module(inputs.to(module.device)).float().softmax(1).max(1)
            rows = zip(indices, labels.tolist(), probabilities.tolist(), strict=True)
            for index, label, probability in rows:
                out[index] = (str(samples[index]), saved["classes"][label], probability)
    return out


def _batches(samples: Sequence[Any], spec: Any) -> Any:
    """Yield the indices and inputs of batches; texts are sorted, the longest first."""
    import numpy as np

    from tl_lightning.data.cache.tokens import padded
    from tl_lightning.data.domain import Split
    from tl_lightning.data.loaders import dataset_of
    from tl_lightning.data.transforms.geometry import Centre
    from tl_lightning.types import TextSpec

    if isinstance(spec, TextSpec):
        encoded = spec.tokenizer.encode(list(samples), spec.max_length)
        truncated = sum(longer for _, longer in encoded)
        if truncated:
            text = f"{truncated} of {len(samples)} texts were truncated to {spec.max_length} tokens"
            print(text, file=sys.stderr)
        order = sorted(range(len(encoded)), key=lambda index: -len(encoded[index][0]))
        for start in range(0, len(order), BATCH):
            indices = order[start : start + BATCH]
            yield indices, padded([np.asarray(encoded[index][0]) for index in indices])
        return
    split = Split(list(samples), None, [str(path) for path in samples])
    dataset = dataset_of(split, spec, Centre(spec), None)
    for start in range(0, len(samples), BATCH):
        indices = list(range(start, min(start + BATCH, len(samples))))
        yield indices, dataset.__getitems__([(index, 0) for index in indices])["inputs"]
