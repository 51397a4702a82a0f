"""Predictions of a trained model for texts or image files."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tl_lightning.errors import ConfigError, DataError
from tl_lightning.utils.text import shorten

if TYPE_CHECKING:
    from tl_lightning.reliability.assessment import Assessment

__all__ = ["Predicted", "Prediction", "find_images", "predicted", "predictions"]

#: Batch size.
BATCH = 64

#: What to do instead, by the input type of the model.
_HINTS = {
    "texts": "set text=<text>",
    "images": "set images=<file or folder>",
    "vectors": "run tl-evaluate checkpoint=<file.ckpt> data=vectors data.source.train=<file>",
}


class Prediction(NamedTuple):
    """The prediction for one sample.

    Attributes:
        sample: The text, or the path of the image.
        label: Name of the most likely class.
        probability: Its probability, calibrated as far as the checkpoint allows.
        novelty: Fraction of source validation that is more familiar to the model; None if the
            checkpoint does not contain such samples.
        abstained: Whether the probability is too low for the wished precision.
    """

    sample: str
    label: str
    probability: float
    novelty: float | None = None
    abstained: bool = False


@dataclass(frozen=True)
class Predicted:
    """Predictions and how far to trust them.

    Attributes:
        rows: One prediction per sample.
        assessment: Of all samples.
        threshold: Lowest probability with the wished precision; None without one.
    """

    rows: list[Prediction]
    assessment: Assessment
    threshold: float | None


def predictions(
    checkpoint: str | Path,
    samples: Sequence[str] | Sequence[Path],
    allow: Sequence[str] = (),
    unreadable: dict[str, str] | None = None,
    precision: float | None = None,
) -> list[Prediction]:
    """Return the predictions of a model, see :func:`predicted`."""
    return predicted(checkpoint, samples, allow, unreadable, precision).rows


def predicted(
    checkpoint: str | Path,
    samples: Sequence[str] | Sequence[Path],
    allow: Sequence[str] = (),
    unreadable: dict[str, str] | None = None,
    precision: float | None = None,
) -> Predicted:
    """Return the predictions of a model for texts or image files, in the given order.

    Args:
        checkpoint: A checkpoint or run folder.
        samples: Texts, or paths of images.
        allow: Full names of additional classes that the checkpoint's configuration may build.
        unreadable: Receives the reason of each image that cannot be read, which is then left out.
        precision: Fraction of the predictions that should be right, in (0, 1): less certain ones
            abstain. It is assured on source validation only.

    Raises:
        CheckpointError: If the checkpoint is not found.
        DataError: If an image cannot be read and ``unreadable`` is None, or none can be read.
        ConfigError: If the model expects another kind of input, or the precision cannot be assured.
    """
    import numpy as np
    import torch
    from scipy.special import softmax

    from tl_lightning.checkpoints.io import read_model
    from tl_lightning.checkpoints.warm_start import checkpoint_of
    from tl_lightning.evaluation.load import rebuilt
    from tl_lightning.reliability.assessment import NOT_STORED, Record, assess
    from tl_lightning.types import InputSpec, Stream, TextSpec

    file = checkpoint_of(Path(checkpoint), "checkpoint")
    stored = read_model(file)
    module = rebuilt(stored, file, allow)
    spec: Any = module.backbone.input_spec
    given = "texts" if samples and isinstance(samples[0], str) else "images"
    kinds = {TextSpec: "texts", InputSpec: "images"}
    expected = kinds.get(type(spec), "vectors")
    if given != expected:
        problem = f"the model of checkpoint={checkpoint} expects {expected}, got {given}"
        raise ConfigError(f"{problem}; {_HINTS[expected]}")
    record = Record.of(stored.reliability)
    if precision is not None and record is None:
        raise ConfigError(f"precision={precision:g} cannot be assured: {NOT_STORED}")
    threshold = None if precision is None or record is None else record.threshold(precision)
    module.to("cuda" if torch.cuda.is_available() else "cpu")
    out: dict[int, tuple[Any, Any]] = {}
    skipped: dict[str, str] = {}
    with torch.inference_mode():
        for indices, inputs in _batches(samples, spec, module.input_state, skipped):
            module.set_batch_domains({Stream.TARGET: len(indices)})
            pair = module.task(module.extract(inputs.to(module.device)))
            features, logits = (part.float().cpu().numpy() for part in pair)
            out |= dict(zip(indices, zip(features, logits, strict=True), strict=True))
    if skipped and (unreadable is None or not out):
        listed = shorten([f"{path} ({reason})" for path, reason in skipped.items()])
        raise DataError(
            f"{len(skipped)} of {len(samples)} images cannot be read: {listed}; leave them out"
        )
    (unreadable if unreadable is not None else {}).update(skipped)
    if not out:
        raise DataError(f"there are no {expected} to predict; pass at least one")
    order = sorted(out)
    features, logits = (np.stack([out[index][part] for index in order]) for part in (0, 1))
    found = assess(record, logits)
    probabilities = softmax(logits.astype(np.float64) / found.temperature, axis=1)
    novelty = None if record is None else record.novelty(features).tolist()
    rows = []
    for row, index in enumerate(order):
        label = int(probabilities[row].argmax())
        probability = float(probabilities[row, label])
        abstains = threshold is not None and not probability >= threshold
        rows.append(
            Prediction(
                str(samples[index]), module.classes[label], probability,
                None if novelty is None else novelty[row], abstains,
            )
        )  # fmt: skip
    return Predicted(rows, found, threshold)


def find_images(path: Path) -> list[Path]:
    """Return an image file, or those directly in a folder.

    Raises:
        DataError: If there are none.
    """
    from tl_lightning.data.io.folders import image_files

    if not path.exists():
        raise DataError(f"images={path} not found; set images=<file or folder>")
    files = [path] if path.is_file() else image_files(path)
    if not files:
        deeper = next((item for item in sorted(path.rglob("*/")) if image_files(item)), None)
        raise DataError(
            f"images={path} contains no images, and its subfolders are not searched; set for "
            f"example images={deeper}"
            if deeper
            else f"images={path} contains no images; set images=<file or folder>"
        )
    return files


def _batches(
    samples: Sequence[Any], spec: Any, state: Mapping[str, Any], skipped: dict[str, str]
) -> Any:
    """Yield the indices and inputs of batches; texts are sorted, the longest first.

    Images that cannot be read are added to ``skipped`` with the reason.
    """
    import numpy as np
    import torch

    from tl_lightning.data.cache.tokens import padded
    from tl_lightning.data.domain import Split
    from tl_lightning.data.io.depth import white_of
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
    paths = list(map(Path, samples))
    white = state.get("max_value") or white_of(paths)
    split = Split(paths, None, list(map(str, paths)), white=white)
    dataset = dataset_of(split, spec, Centre(spec), None)
    for start in range(0, len(samples), BATCH):
        read = {}
        for index in range(start, min(start + BATCH, len(samples))):
            try:
                read[index] = dataset[(index, 0)]["inputs"]
            except DataError as error:
                skipped[str(paths[index])] = str(error.__cause__)
        if read:
            yield list(read), torch.stack(list(read.values()))
