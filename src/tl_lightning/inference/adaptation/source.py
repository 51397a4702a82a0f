"""Samples of the source that a regulariser is computed on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from torch import Tensor

from tl_lightning.errors import ConfigError, DataError
from tl_lightning.inference.adaptation.eata import FISHER_SAMPLES
from tl_lightning.inference.draft import digest_after
from tl_lightning.inference.options import Options
from tl_lightning.inference.predictor import Predictor
from tl_lightning.inference.reading import chunk_size, submitted
from tl_lightning.inference.sources import Sample, from_python
from tl_lightning.utils.text import shorten

__all__ = ["source_batches"]


def source_batches(predictor: Predictor, options: Options) -> tuple[Iterator[Tensor], str]:
    """Return network inputs of random samples of ``adapt.fisher``, and a hash of the samples.

    Raises:
        ConfigError: If a table has no such column.
        DataError: If there are none, or, while the inputs are read, if one cannot be read.
    """
    assert options.adapt is not None
    fisher, column = options.adapt.fisher, options.adapt.column
    try:
        found = list(from_python(fisher, predictor.kind, column).samples)
    except (ConfigError, DataError) as error:
        text = re.sub(r"\bcolumn(?==|$)", "adapt.column", str(error))
        raise type(error)(text.replace("input=", "adapt.fisher=")) from error
    if not found:
        raise DataError("adapt.fisher is empty; set adapt.fisher=<samples of the source>")
    # Random, as a folder is sorted by class, and always the same.
    order = np.random.default_rng(0).permutation(len(found))[:FISHER_SAMPLES]
    samples = [found[place] for place in order]
    return _batches(predictor, samples, options), digest_after("", samples)


def _batches(predictor: Predictor, samples: Sequence[Sample], options: Options) -> Iterator[Tensor]:
    batch_size = options.samples(predictor.module.device.type)
    size = chunk_size(predictor, batch_size, in_order=True)
    with ThreadPoolExecutor(options.threads) as pool:
        for start in range(0, len(samples), size):
            chunk = samples[start : start + size]
            found = submitted(predictor, chunk, pool, batch_size).result()
            if found.problems:
                texts = [f"{chunk[k].name} ({text})" for k, text in found.problems.items()]
                raise DataError(
                    f"samples of adapt.fisher cannot be read: {shorten(texts)}; remove them, or "
                    "set adapt.fisher=<other samples of the source>"
                )
            for _, inputs in found.batches:
                yield inputs
