"""Outputs of many samples: threads read them, and every device has a copy of the model."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from queue import SimpleQueue

import numpy as np
import torch
from torch import Tensor

from tl_lightning.data.threaded_loader import pool_of
from tl_lightning.inference.adaptation.stream import StreamAdaptation
from tl_lightning.inference.options import Options
from tl_lightning.inference.predictor import Outputs, Predictor
from tl_lightning.inference.reading import Pending, chunk_size, submitted
from tl_lightning.inference.sources import Sample

__all__ = ["Chunk", "outputs_of"]


@dataclass(frozen=True)
class Chunk:
    """Consecutive samples with their outputs.

    Attributes:
        samples: In the order of the input.
        positions: Positions of the samples that could be read, ``(B,)``.
        outputs: Of these samples; None if there are none.
        problems: Why the others could not be read, by their position.
        truncated: Number of texts that are longer than the model reads.
        adaptation: State of the adaptation after these samples; empty if the model does not adapt.
        adapted: What the adaptation has counted up to them.
    """

    samples: Sequence[Sample]
    positions: Sequence[int]
    outputs: Outputs | None
    problems: dict[int, str]
    truncated: int
    adaptation: bytes = b""
    adapted: Mapping[str, int] = field(default_factory=dict)


def outputs_of(
    predictors: Sequence[Predictor],
    samples: Iterable[Sample],
    options: Options,
    adaptation: StreamAdaptation | None = None,
) -> Generator[Chunk]:
    """Yield the outputs of samples in their order; memory does not grow with their number.

    Chunks consist of the same samples for any number of threads and devices.

    Args:
        predictors: One per device.
        samples: The inputs.
        options: Batch size, threads and averaging.
        adaptation: What predicts in place of the model, of which there must be one; or None.
    """
    batch_size = options.samples(predictors[0].module.device.type)
    size = chunk_size(predictors[0], batch_size, adaptation is not None)
    free: SimpleQueue[Predictor] = SimpleQueue()
    for predictor in predictors:
        free.put(predictor)

    def computed(chunk: Sequence[Sample], reading: Pending) -> Chunk:
        predictor = free.get()
        try:
            if adaptation is None:
                return _computed(lambda x: _outputs(predictor, x, options.tta), chunk, reading)
            found = _computed(adaptation.outputs, chunk, reading)
            return replace(found, adaptation=adaptation.state(), adapted=dict(adaptation.counts))
        finally:
            free.put(predictor)

    rest, ahead = iter(samples), 2 * len(predictors)
    pending: deque[Future[Chunk]] = deque()
    threads = torch.get_num_threads()
    with pool_of(options.threads) as pool:
        compute = ThreadPoolExecutor(len(predictors), "compute", torch.set_num_threads, (threads,))
        try:
            while chunk := list(itertools.islice(rest, size)):
                reading = submitted(predictors[0], chunk, pool, batch_size)
                pending.append(compute.submit(computed, chunk, reading))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:  # also if the caller reads no further
            pool.shutdown(wait=False, cancel_futures=True)
            for future in pending:
                future.cancel()
            compute.shutdown(wait=True, cancel_futures=True)


def _computed(
    predict: Callable[[Tensor], Outputs], chunk: Sequence[Sample], reading: Pending
) -> Chunk:
    inputs = reading.result()
    parts = [predict(batch) for _, batch in inputs.batches]
    positions = [position for batch, _ in inputs.batches for position in batch]
    order = np.argsort(positions, kind="stable")
    outputs = None
    if parts:
        outputs = Outputs(*(np.concatenate(part)[order] for part in zip(*parts, strict=True)))
    return Chunk(chunk, sorted(positions), outputs, inputs.problems, inputs.truncated)


def _outputs(predictor: Predictor, inputs: Tensor, tta: bool) -> Outputs:
    found = predictor.outputs(inputs)
    if not tta:
        return found
    mirrored = predictor.outputs(inputs.flip(-1))
    return Outputs(*((one + other) / 2 for one, other in zip(found, mirrored, strict=True)))
