"""Network inputs of samples: decoded images, encoded texts and scaled vectors."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from tl_lightning.data.cache.tokens import padded
from tl_lightning.data.io.images import UNREADABLE
from tl_lightning.data.io.texts import read_text
from tl_lightning.errors import DataError
from tl_lightning.inference.predictor import Predictor
from tl_lightning.inference.sources import Sample
from tl_lightning.utils.files import UNREACHABLE

__all__ = ["Batch", "Inputs", "chunk_size", "submitted"]

#: Batches of texts that are sorted by length together, so that few tokens are padding.
WINDOW = 16


@dataclass
class Inputs:
    """Network inputs of one chunk of samples.

    Attributes:
        batches: Positions of the samples in the chunk, and their inputs ``(B, ...)``.
        problems: Why samples cannot be read, by their position.
        truncated: Number of texts that are longer than the model reads.
    """

    batches: list[Batch] = field(default_factory=list)
    problems: dict[int, str] = field(default_factory=dict)
    truncated: int = 0


Batch = tuple[list[int], Tensor]


class Pending:
    """Inputs that are being read by other threads."""

    def __init__(self, parts: Sequence[Future[Any]], joined: Any) -> None:
        self.parts = parts
        self.joined = joined

    def result(self) -> Inputs:
        """Wait for the inputs."""
        found: Inputs = self.joined([part.result() for part in self.parts])
        return found


def chunk_size(predictor: Predictor, batch_size: int, in_order: bool) -> int:
    """Return how many samples are read together.

    Args:
        predictor: The model.
        batch_size: Number of samples per batch.
        in_order: Whether batches must be in the order of the input.
    """
    return batch_size * (WINDOW if predictor.kind == "texts" and not in_order else 1)


def submitted(
    predictor: Predictor, chunk: Sequence[Sample], pool: Executor, batch_size: int
) -> Pending:
    """Start reading a chunk of samples."""
    if predictor.kind == "images":
        parts = [pool.submit(_image, predictor, sample) for sample in chunk]
        return Pending(parts, _images)
    work = _texts if predictor.kind == "texts" else _vectors
    return Pending([pool.submit(work, predictor, chunk, batch_size)], lambda parts: parts[0])


def _image(predictor: Predictor, sample: Sample) -> Tensor | str:
    """Return the input of an image, or why it cannot be read."""
    if sample.problem:
        return sample.problem
    try:
        white = predictor.stored.input_state.get("max_value")
        return predictor.image(_pixels(sample.value, white))
    except DataError as error:
        cause = error.__cause__
        if isinstance(cause, FileNotFoundError):
            return "not found"
        if isinstance(cause, OSError) and cause.errno in UNREACHABLE:
            raise DataError(
                f"cannot read image {sample.name}: {cause.strerror}; check that its disk or mount "
                "is available, then repeat the command"
            ) from error
        if isinstance(sample.value, Path) and _empty(sample.value):
            return "the file is empty"
        return _reason(cause or error)


def _empty(path: Path) -> bool:
    with suppress(OSError):  # such as a link to itself
        return not path.stat().st_size
    return False


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EISDIR):
        return error.strerror or str(error)
    return (str(error) or type(error).__name__).replace("\n", " ")


def _pixels(value: Any, white: float | None) -> Any:
    """Return a path, bytes or uint8 pixels ``(H, W, 3)`` as they are, and other images as such."""
    if isinstance(value, Path | bytes):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    return array_of(value, white)


def array_of(value: Any, white: float | None = None) -> Any:
    """Return the pixels ``(H, W, 3)`` uint8 of an image of Pillow, numpy or torch.

    Arrays are ``(H, W)``, ``(H, W, 1)`` or ``(H, W, 3)``; tensors are ``(H, W)``, ``(1, H, W)`` or
    ``(3, H, W)``.

    Args:
        value: The image.
        white: Value that becomes 255 in an image of Pillow of more than 8 bits.

    Raises:
        DataError: If it is none of them.
    """
    from tl_lightning.data.io.metadata import orientation_of, upright
    from tl_lightning.data.io.pixels import rgb

    if hasattr(value, "getexif"):
        try:
            turned = orientation_of(value.getexif())
            return np.array(upright(rgb(value, white)[0], turned), order="C")
        except UNREADABLE as error:
            raise DataError(f"cannot read the image: {error}") from error
    pixels = value.permute(1, 2, 0) if isinstance(value, Tensor) and value.ndim == 3 else value
    pixels = np.asarray(pixels.cpu() if isinstance(pixels, Tensor) else pixels)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        raise DataError(
            f"an image must be a file, its bytes, an image of Pillow, or uint8 of shape (H, W, 3) "
            f"(numpy) or (3, H, W) (torch), got {type(value).__name__} of shape {pixels.shape} "
            f"and type {pixels.dtype}"
        )
    if 0 in pixels.shape:
        raise DataError("the image has no pixels")
    return np.array(np.broadcast_to(pixels, (*pixels.shape[:2], 3)), order="C")


def _images(found: Sequence[Tensor | str]) -> Inputs:
    inputs = Inputs(problems={k: one for k, one in enumerate(found) if isinstance(one, str)})
    tensors = {k: one for k, one in enumerate(found) if isinstance(one, Tensor)}
    if tensors:  # one copy, in the order of the pixels in memory
        stacked = torch.stack([one.permute(1, 2, 0) for one in tensors.values()])
        inputs.batches.append((list(tensors), stacked.permute(0, 3, 1, 2)))
    return inputs


def _texts(predictor: Predictor, chunk: Sequence[Sample], batch_size: int) -> Inputs:
    """Return batches of texts of similar length, the longest first."""
    inputs, texts = Inputs(), {}
    for position, sample in enumerate(chunk):
        problem = sample.problem
        if not problem:
            try:
                value = sample.value
                text = read_text(value) if isinstance(value, Path) else value
                text.encode()  # bytes that are not UTF-8 are surrogates in a str
                texts[position] = text
            except UnicodeEncodeError:
                problem = "the text is not UTF-8"
            except ValueError as error:
                problem = str(error)
        if problem:
            inputs.problems[position] = problem
    if not texts:
        return inputs
    spec = predictor.spec
    encoded = spec.tokenizer.encode(list(texts.values()), spec.max_length)
    rows = {position: np.asarray(row) for position, (row, _) in zip(texts, encoded, strict=True)}
    inputs.truncated = sum(longer for _, longer in encoded)
    order = sorted(rows, key=lambda position: -len(rows[position]))
    for start in range(0, len(order), batch_size):
        positions = order[start : start + batch_size]
        inputs.batches.append((positions, padded([rows[position] for position in positions])))
    return inputs


def _vectors(predictor: Predictor, chunk: Sequence[Sample], batch_size: int) -> Inputs:
    rows = [sample.value for sample in chunk]
    stack = sparse.vstack if sparse.issparse(rows[0]) else np.concatenate
    inputs = Inputs()
    x: Any = stack(rows)
    values = x.data if sparse.issparse(x) else x
    if not np.isfinite(values).all():
        good = np.isfinite(x.toarray() if sparse.issparse(x) else x).all(axis=1)
        bad = np.flatnonzero(~good).tolist()
        inputs.problems = dict.fromkeys(bad, "the vector contains NaN or infinity")
        x = x[good]
    kept = [position for position in range(len(chunk)) if position not in inputs.problems]
    if kept:
        inputs.batches.append((kept, predictor.vectors(x)))
    return inputs
