"""Predictions of a trained model for images, texts or vectors."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tl_lightning.errors import ConfigError

__all__ = ["Prediction", "predictions"]

#: Samples that pass the network at a time.
BATCH = 64

#: What to type for a model, by what it takes.
_WAYS = {
    "texts": "text=<words>",
    "pictures": "pictures=<file or folder>",
    "vectors": "tl-evaluate checkpoint=<file.ckpt> data=vectors data.source.train=<file> instead",
}

#: What was asked, the class's name and its probability.
Prediction = tuple[str, str, float]


def predictions(
    checkpoint: str | Path, samples: Sequence[str] | Sequence[Path]
) -> list[Prediction]:
    """Return what a model says of texts or picture files, in their order.

    Args:
        checkpoint: A checkpoint of ours or the folder of a run.
        samples: Texts, or paths of pictures.

    Raises:
        CheckpointError: If there is no such checkpoint.
        ConfigError: If the model takes something else.
    """
    import torch

    from tl_lightning.checkpoints.warm_start import checkpoint_of
    from tl_lightning.evaluation.load import load
    from tl_lightning.types import InputSpec, TextSpec

    module = load(checkpoint_of(Path(checkpoint), "checkpoint"))
    spec: Any = module.backbone.input_spec
    given = "texts" if samples and isinstance(samples[0], str) else "pictures"
    kinds = {TextSpec: "texts", InputSpec: "pictures"}
    takes = kinds.get(type(spec), "vectors")
    if given != takes:
        raise ConfigError(
            f"the model of checkpoint={checkpoint} takes {takes}, got {given}; type {_WAYS[takes]}"
        )
    saved: Any = module.hparams
    module.to("cuda" if torch.cuda.is_available() else "cpu")
    out: list[Prediction] = [("", "", 0.0)] * len(samples)
    with torch.inference_mode():
        for places, inputs in _batches(samples, spec):
            share, index = module(inputs.to(module.device)).float().softmax(1).max(1)
            rows = zip(places, index.tolist(), share.tolist(), strict=True)
            for place, label, probability in rows:
                out[place] = (str(samples[place]), saved["classes"][label], probability)
    return out


def _batches(samples: Sequence[Any], spec: Any) -> Any:
    """Yield places and inputs, of texts the longest first."""
    import numpy as np

    from tl_lightning.data.cache.tokens import padded
    from tl_lightning.data.domain import Split
    from tl_lightning.data.loaders import dataset_of
    from tl_lightning.data.transforms.geometry import Centre
    from tl_lightning.types import TextSpec

    if isinstance(spec, TextSpec):
        found = spec.tokenizer.encode(list(samples), spec.max_length)
        cut = sum(longer for _, longer in found)
        if cut:
            words = f"{cut} of {len(samples)} texts have more than {spec.max_length} tokens"
            print(f"{words} and were cut", file=sys.stderr)
        order = sorted(range(len(found)), key=lambda place: -len(found[place][0]))
        for start in range(0, len(order), BATCH):
            places = order[start : start + BATCH]
            yield places, padded([np.asarray(found[place][0]) for place in places])
        return
    split = Split(list(samples), None, [str(path) for path in samples])
    dataset = dataset_of(split, spec, Centre(spec), None)
    for start in range(0, len(samples), BATCH):
        several = list(range(start, min(start + BATCH, len(samples))))
        yield several, dataset.__getitems__([(place, 0) for place in several])["inputs"]
