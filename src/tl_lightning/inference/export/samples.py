"""Samples on which an exported model is compared with its checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tl_lightning.checkpoints.io import StoredModel
from tl_lightning.config.allowlist import stored_problems
from tl_lightning.config.instantiate import ALLOWED, nodes_of
from tl_lightning.config.schema import TaskConfig
from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.data.domain import Split
from tl_lightning.data.io.folders import image_files
from tl_lightning.data.io.images import fitted, open_image, shorter_side
from tl_lightning.data.io.texts import read_text
from tl_lightning.data.io.vectors import Table, read_vectors
from tl_lightning.data.transforms.geometry import Centre
from tl_lightning.data.transforms.vectors import dense, from_first, vector_width
from tl_lightning.errors import ConfigError, DataError, TransferError
from tl_lightning.evaluation.nodes import stored_section
from tl_lightning.inference.predictor import Predictor
from tl_lightning.tasks.encoding import encoding_of
from tl_lightning.utils.spread import spread

__all__ = ["BATCH", "Samples", "batches", "find_samples", "full_images"]

Array = NDArray[Any]
#: Number of samples in a batch.
BATCH = 16
#: Largest number of vectors that are held as a dense array.
MOST = 2000
#: Vocabulary for synthetic texts.
_WORDS = ("the", "a", "good", "bad", "film", "book", "story", "was", "not", "very", "of", "with")


@dataclass(frozen=True)
class Samples:
    """Samples as they are in files.

    Attributes:
        items: Paths of images or arrays ``(H, W, 3)``, texts, or vectors ``(N, F)``.
        labels: ``(N,)`` class indices; None if they are not known or must not be used.
        origin: Where they are from, in words.
        real: Whether they are real samples rather than noise.
    """

    items: Any
    labels: NDArray[np.int64] | None
    origin: str
    real: bool = True

    def __len__(self) -> int:
        return len(self.items) if isinstance(self.items, list) else int(self.items.shape[0])

    def part(self, keep: Sequence[int]) -> Samples:
        """Return the samples at ``keep``."""
        items = [self.items[i] for i in keep] if isinstance(self.items, list) else self.items[keep]
        labels = None if self.labels is None else self.labels[list(keep)]
        return replace(self, items=items, labels=labels)


def find_samples(predictor: Predictor, given: Path | None, count: int, allow: Any) -> Samples:
    """Return at most ``count`` samples: the given ones, those of the run, or noise.

    Labels are those of class folders, or of the source; labels of the run's target are not used.

    Args:
        predictor: The model.
        given: A folder of images, a file of texts (one per line) or of vectors, or None.
        count: Number of samples, spread evenly.
        allow: Full names of additional classes that the checkpoint's configuration may build.

    Raises:
        DataError: If the given samples cannot be used.
    """
    if given is not None:
        found = _given(predictor, given)
        return found.part(spread(len(found), count))
    try:
        found = _of_run(predictor, allow)
        return found.part(spread(len(found), count))
    except TransferError as error:
        reason = str(error).splitlines()[0].partition(";")[0]
        return _synthetic(predictor, min(count, 64), reason)


def _given(predictor: Predictor, given: Path) -> Samples:
    if not given.exists():
        raise DataError(f"samples={given} not found; set samples=<folder or file>")
    if predictor.kind == "images":
        files = [given] if given.is_file() else _images_below(given)
        if not files:
            raise DataError(f"samples={given} contains no images; set samples=<folder of images>")
        names = [file.parent.name for file in files]
        index = {name: number for number, name in enumerate(predictor.classes)}
        known = all(name in index for name in names) and not given.is_file()
        labels = np.array([index[name] for name in names]) if known else None
        return Samples(files, labels, "images given by samples=")
    if predictor.kind == "vectors":
        table = read_vectors(given, "samples")
        return Samples(
            _rows(table, predictor), _labels(table, predictor.classes), "vectors given by samples="
        )
    try:
        lines = [line for line in read_text(given).splitlines() if line.strip()]
    except ValueError as error:
        raise DataError(f"cannot read samples={given}: {error}; set samples=<file.txt>") from error
    return Samples(lines, None, "texts given by samples=")


def _images_below(folder: Path) -> list[Path]:
    below = sorted(path for path in folder.rglob("*") if path.is_dir())
    return [file for place in (folder, *below) for file in image_files(place)]


def _of_run(predictor: Predictor, allow: Sequence[str]) -> Samples:
    """Return validation samples of the run: of its target, without labels, or of its source.

    Raises:
        TransferError: If the data cannot be read.
    """
    stored = predictor.stored
    if predictor.kind == "vectors":
        return _vectors_of_run(predictor)
    data = _data(stored, allow)
    data.discover(input_state=stored.input_state)
    if data.classes != predictor.classes:
        raise DataError("the data of the run now have other classes")
    data.prepare(replace(predictor.module.needs(), train_on=("source",), strong=False))
    domain = "target" if "target" in data.found else "source"
    split = data.found[domain].val
    if len(split) < BATCH and len(data.found[domain].train) > len(split):
        split = data.found[domain].train
    items = _items(split)
    labels = split.labels if domain == "source" else None
    return Samples(items, labels, f"validation samples of the run's {domain}")


def _data(stored: StoredModel, allow: Sequence[str]) -> TransferDataModule:
    section = {"data": stored_section(stored, "data")}
    problems = stored_problems(section, allow)
    if not problems:
        nodes, problems = nodes_of(section, [*ALLOWED, *allow])
    if problems:
        raise ConfigError(problems)
    found: TransferDataModule = nodes["data"].build()
    found.encoding = encoding_of(
        TaskConfig(**stored.config.get("task", {"kind": "classification"}))
    )
    return found


def _items(split: Split) -> list[Any]:
    """Return the samples of a split as files, arrays or texts."""
    kinds = (str, Path, np.ndarray)
    items = list(split.samples)
    if not items or not isinstance(items[0], kinds):
        raise DataError("the data of the run cannot be read one by one")
    return [str(item) if isinstance(item, str) else item for item in items]


def _vectors_of_run(predictor: Predictor) -> Samples:
    """Return the vectors of the training file, as they are there."""
    section = stored_section(predictor.stored, "data")
    target = section.get("target") or {}
    domain = "target" if target.get("train") else "source"
    if not (section.get(domain) or {}).get("train"):
        raise DataError("the vectors of the run are not in a file")
    table = read_vectors(Path(section[domain]["train"]).expanduser(), f"data.{domain}.train")
    return Samples(_rows(table, predictor), None, f"vectors of the run's {domain}")


def _rows(table: Table, predictor: Predictor) -> Array:
    """Return dense rows with the columns that the exported model takes."""
    from scipy import sparse

    state, x = predictor.stored.input_state, table.x
    if sparse.issparse(x):
        width = state.get("width", predictor.spec.width)
        x = x.tocsr()
        x.resize(x.shape[0], max(width, x.shape[1]))
    return dense(from_first(x, state)[spread(x.shape[0], MOST)])


def _labels(table: Table, classes: Sequence[str]) -> NDArray[np.int64] | None:
    if table.y is None or not set(table.y.tolist()) <= set(classes):
        return None
    index = {name: number for number, name in enumerate(classes)}
    labels = np.array([index[name] for name in table.y.tolist()])
    return labels[spread(len(labels), MOST)]


def _synthetic(predictor: Predictor, count: int, reason: str) -> Samples:
    rng = np.random.default_rng(0)
    origin = f"{count} synthetic samples, as the data of the run cannot be read ({reason})"
    if predictor.kind == "images":
        side = predictor.spec.size
        shapes = rng.integers(side // 2 + 2, 2 * side, (count, 2))
        items: Any = [_noise(rng, int(h), int(w)) for h, w in shapes]
    elif predictor.kind == "texts":
        items = [" ".join(rng.choice(_WORDS, rng.integers(2, 60))) for _ in range(count)]
    else:
        width = vector_width(predictor.stored.input_state, predictor.spec.width)
        items = rng.standard_normal((count, width)).astype(np.float32)
    return Samples(items, None, origin, real=False)


def _noise(rng: np.random.Generator, height: int, width: int) -> Array:
    """Return a random image with coarse and fine structure, ``(H, W, 3)``."""
    coarse = rng.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3))
    large = coarse.repeat(16, axis=0).repeat(16, axis=1)[:height, :width]
    fine = rng.integers(-40, 41, (height, width, 3))
    found: Array = (large + fine).clip(0, 255).astype(np.uint8)
    return found


def batches(predictor: Predictor, samples: Samples, size: int = BATCH) -> Iterator[tuple[Any, Any]]:
    """Yield batches as a pair: inputs of the checkpoint's network, inputs of the exported one.

    Both are equal for images, in the network's size, and for texts.
    """
    for start in range(0, len(samples), size):
        part = samples.part(range(start, min(start + size, len(samples))))
        if predictor.kind == "vectors":
            yield predictor.vectors(part.items), np.ascontiguousarray(part.items)
            continue
        if predictor.kind == "texts":
            inputs = predictor.tokens(part.items)[0]
        else:
            inputs = torch.stack([_prepared(predictor, item) for item in part.items])
        yield inputs, inputs.numpy()


def full_images(predictor: Predictor, samples: Samples) -> Iterator[tuple[Any, Any]]:
    """Yield images one by one: as the checkpoint's network takes them, and in their own size."""
    for item in samples.items:
        image = _image(predictor, item)
        yield _fitted(predictor, image)[None], image[None].numpy()


def _prepared(predictor: Predictor, item: Any) -> Tensor:
    return _fitted(predictor, _image(predictor, item))


def _image(predictor: Predictor, item: Any) -> Tensor:
    """Return an image ``(3, H, W)`` uint8."""
    if isinstance(item, Path):
        shorter, white = shorter_side(predictor.spec), predictor.stored.input_state.get("max_value")
        return open_image(item, shorter, white)
    return torch.from_numpy(np.ascontiguousarray(item)).permute(2, 0, 1)


def _fitted(predictor: Predictor, image: Tensor) -> Tensor:
    spec = predictor.spec
    out = torch.empty((1, spec.size, spec.size, 3), dtype=torch.uint8)
    Centre(spec)([fitted(image, shorter_side(spec), spec)], [0], out)
    return out[0].permute(2, 0, 1).contiguous()
