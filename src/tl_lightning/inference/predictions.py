"""Predictions: what the outputs of a model mean, sample by sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tl_lightning.inference.options import Options
from tl_lightning.inference.pipeline import Chunk
from tl_lightning.inference.predictor import Array, Predictor
from tl_lightning.tasks.auxiliary.multi_label import SEPARATOR

__all__ = ["Prediction", "rows_of"]


class Prediction(NamedTuple):
    """The prediction for one sample.

    Attributes:
        sample: The text, the path of the image as it was given, or the number of the input.
        label: Name of the most likely class; None if the sample could not be read.
        probability: Its calibrated probability; None likewise.
        novelty: Fraction of source validation that is more familiar to the model; None if the
            checkpoint does not contain such samples.
        abstained: Whether the probability is too low for the wished precision.
        top: The most likely classes with their probabilities, the first one included.
        embedding: Input of the classifier ``(D,)`` float32, if it was asked for.
        error: Why the sample could not be read; empty if it could.
        unknown: Whether the sample is taken for none of the classes; None if the model does not
            recognise such samples (``data.target.classes``).
        values: Predicted numbers by name, of tasks that have some: the numbers of a regression, in
            place of a class; the probability of each of several labels, of which ``label`` has
            those above 1/2, such as ``a;b``; the expected one of ordered levels.
    """

    sample: str
    label: str | None
    probability: float | None
    novelty: float | None = None
    abstained: bool = False
    top: tuple[tuple[str, float], ...] = ()
    embedding: Array | None = None
    error: str = ""
    unknown: bool | None = None
    values: tuple[tuple[str, float], ...] = ()


def rows_of(
    predictor: Predictor, chunk: Chunk, options: Options, threshold: float | None
) -> Iterator[Prediction]:
    """Yield one prediction per sample of a chunk, in the order of the samples."""
    rows = {}
    names = predictor.value_names
    numbers = None if chunk.outputs is None else predictor.values(chunk.outputs.logits)
    values = [] if numbers is None else [
        tuple(zip(names, row, strict=True)) for row in numbers.tolist()
    ]  # fmt: skip
    if chunk.outputs is not None and predictor.of_labels:
        several = predictor.module.task.kind == "multi_label"
        for row, position in enumerate(chunk.positions):
            has = SEPARATOR.join(name for name, chance in values[row] if chance > 0.5)
            rows[position] = Prediction(
                chunk.samples[position].name, has if several else None, None,
                embedding=chunk.outputs.features[row] if options.embeddings else None,
                values=values[row],
            )  # fmt: skip
    elif chunk.outputs is not None:
        features, logits = chunk.outputs
        unknown = predictor.unknown(chunk.outputs)
        probabilities = predictor.probabilities(logits)
        count = min(options.top, probabilities.shape[1])
        # Stable, so that equal probabilities are in the order of the classes.
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, :count]
        record = predictor.record
        novelty = None if record is None else record.novelty(features).tolist()
        for row, position in enumerate(chunk.positions):
            top = tuple(
                (predictor.classes[label], float(probabilities[row, label])) for label in best[row]
            )
            label, probability = top[0]
            rows[position] = Prediction(
                chunk.samples[position].name, label, probability,
                None if novelty is None else novelty[row],
                threshold is not None and not probability >= threshold, top,
                features[row] if options.embeddings else None,
                unknown=None if unknown is None else bool(unknown[row]),
                values=values[row] if values else (),
            )  # fmt: skip
    for position, sample in enumerate(chunk.samples):
        if position in rows:
            yield rows[position]
        else:
            yield Prediction(sample.name, None, None, error=chunk.problems[position])
