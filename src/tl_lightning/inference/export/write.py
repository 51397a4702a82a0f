"""Export of a trained model: written to a draft, compared with its checkpoint, then kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tl_lightning.errors import CheckpointError, ConfigError
from tl_lightning.inference.export import describe
from tl_lightning.inference.export.formats import describe_file, read_file, write_file
from tl_lightning.inference.export.network import exported_network
from tl_lightning.inference.export.parity import (
    Agreement,
    Runner,
    check_loss,
    check_parity,
    compare,
    ratio_of_times,
)
from tl_lightning.inference.export.quantised import quantise
from tl_lightning.inference.export.samples import (
    Samples,
    batches,
    find_samples,
    full_images,
)
from tl_lightning.inference.export.settings import SUFFIXES, Settings, require_packages
from tl_lightning.inference.predictor import Predictor
from tl_lightning.utils.files import write_json, write_text
from tl_lightning.utils.owned import new_folder

__all__ = ["export_model"]

_TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def export_model(checkpoint: str | Path, settings: Settings) -> dict[str, Any]:
    """Export a model, if its file computes what the checkpoint does.

    Args:
        checkpoint: A checkpoint or run folder.
        settings: What to export and how.

    Returns:
        The content of ``model.json``.

    Raises:
        CheckpointError: If the checkpoint cannot be used, or the file differs too much from it;
            nothing is written then.
        ConfigError: If a package is missing, or the model cannot be exported.
        DataError: If the given samples cannot be used.
    """
    require_packages(settings.format)
    predictor = Predictor.open(checkpoint, settings.allow, device="cpu")
    predictor.needs_classes("tl-export")
    abstain = _abstain(predictor, settings.abstain)
    resize = _resizes(predictor, settings)
    samples = find_samples(predictor, settings.samples, _needed(settings), settings.allow)
    if settings.precision == "int8" and not samples.real:
        raise ConfigError(
            "precision=int8 needs real samples for calibration, but there are only "
            f"{samples.origin}; set samples=<folder or file>"
        )
    with _draft(settings) as draft:
        file = draft / f"model{SUFFIXES[settings.format]}"
        work = _Work(predictor, settings, samples, resize, file)
        measured = work.write()
        description = {
            **describe.versions(),
            "file": settings.file.name if settings.file else file.name,
            "format": settings.format,
            "precision": settings.precision,
            "opset": _opset(file) if settings.format == "onnx" else None,
            "classes": list(predictor.classes),
            "temperature": predictor.temperature,
            "abstain": abstain,
            "rejection": describe.rejection(predictor),
            "input": describe.contract(predictor, resize),
            "outputs": {
                "probabilities": "(batch, classes) float32, calibrated",
                "logits": "(batch, classes) float32, not divided by the temperature",
                "features": "(batch, width) float32, input of the classifier",
            },
            "origin": describe.origin(predictor),
            "pretrained_weights": describe.licence(predictor.stored),
            **measured,
        }
        before = work.outputs()
        describe_file(file, settings.format, describe.as_text(description))
        work.check_unchanged(before)
        _write_beside(draft, predictor, settings, description)
    return description


@dataclass
class _Work:
    """The steps from a model to a file that has been compared with it."""

    predictor: Predictor
    settings: Settings
    samples: Samples
    resize: bool
    file: Path

    def write(self) -> dict[str, Any]:
        """Write the file, compare it and return the figures.

        Raises:
            CheckpointError: If it differs too much from the checkpoint.
        """
        self.network = exported_network(self.predictor, self.resize)
        calibration, self.held_out = self._parts()
        precision, format = self.settings.precision, self.settings.format
        write_file(self.network, self.file, format, self._example())
        whole = self._compared()
        check_parity(whole, format)
        figures = {"parity": {"samples_are": self.samples.origin, "float32": whole.as_dict()}}
        if precision == "float32":
            return figures
        first = read_file(self.file, format, self.network)
        if format == "onnx":  # keeps the whole file in memory
            kept = self.file.with_name("float32.onnx")
            os.replace(self.file, kept)
            self.file32 = kept
        if precision == "int8":
            static = self.predictor.kind == "images"
            inputs = [raw for _, raw in batches(self.predictor, calibration)] if static else []
            how = quantise(self.file32, inputs, self.file)
        else:
            self.network, how = self.network.in_precision(_TYPES[precision]), precision
            write_file(self.network, self.file, format, self._example())
        reduced = self._compared()
        check_loss(reduced, precision, self.settings.max_loss)
        speed = ratio_of_times(first, self._runner(), self._batch())
        if format == "onnx":
            self.file32.unlink()
        speed["threads"] = torch.get_num_threads()
        figures["parity"][precision] = {"how": how, **reduced.as_dict(), "speed": speed}
        return figures

    def outputs(self) -> Any:
        """Return the probabilities that the file gives for a batch."""
        return self._runner()(self._batch())["probabilities"]

    def check_unchanged(self, before: Any) -> None:
        """Raise CheckpointError if the file no longer computes what has been compared."""
        if not np.allclose(self.outputs(), before, rtol=0, atol=1e-6):
            raise CheckpointError(
                f"nothing was exported: adding the description changed what the {self.file.name} "
                "file computes; set another format"
            )

    def _parts(self) -> tuple[Samples, Samples]:
        """Return the samples for calibration and those held out; all of them without int8."""
        if self.settings.precision != "int8" or self.predictor.kind != "images":
            return self.samples, self.samples
        count = len(self.samples)
        if count < 2:
            raise ConfigError(
                "precision=int8 needs at least two samples, one for calibration and one to compare "
                "on; set samples=<folder>"
            )
        order = np.random.default_rng(0).permutation(count).tolist()
        first = max(1, min(count - 1, count - self.settings.count, 2 * count // 3))
        return self.samples.part(order[:first]), self.samples.part(order[first:])

    def _inputs(self, samples: Samples) -> Iterator[tuple[Any, Any]]:
        if self.resize:
            return full_images(self.predictor, samples)
        return batches(self.predictor, samples)

    def _runner(self) -> Runner:
        return read_file(self.file, self.settings.format, self.network)

    def _compared(self) -> Agreement:
        samples = self.held_out
        return compare(self.predictor, self._runner(), self._inputs(samples), samples.labels)

    def _batch(self) -> Any:
        return next(iter(self._inputs(self.held_out)))[1]

    def _example(self) -> Tensor:
        """Return inputs to trace with; noise, as some formats store them."""
        kind, generator = self.predictor.kind, torch.Generator().manual_seed(0)
        inputs = torch.from_numpy(self._batch())
        if kind == "texts":
            return torch.tensor([[1, 2, 3, 4], [1, 2, 3, -1]])
        if kind == "vectors":
            return torch.rand((2, inputs.shape[1]), generator=generator)
        size = self.predictor.spec.size
        shape = (2, 3, size + 9, size + 5) if self.resize else (2, 3, size, size)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def _needed(settings: Settings) -> int:
    """Return the number of samples: with int8, as many again for calibration."""
    return 2 * settings.count if settings.precision == "int8" else settings.count


def _abstain(predictor: Predictor, precision: float | None) -> dict[str, float] | None:
    """Return the threshold below which the model abstains.

    Raises:
        ConfigError: If it cannot be found.
    """
    try:
        threshold = predictor.threshold(precision)
    except ConfigError as error:
        raise ConfigError(str(error).replace("precision=", "abstain=")) from error
    if precision is None or threshold is None:
        return None
    return {"precision": precision, "threshold": float(threshold)}


def _resizes(predictor: Predictor, settings: Settings) -> bool:
    """Return whether the network resizes images itself."""
    if settings.resize == "true" and predictor.kind != "images":
        raise ConfigError(
            f"resize=true concerns images, but the model classifies {predictor.kind}; leave it out"
        )
    exact = settings.format == "torch_export" and predictor.kind == "images"
    return exact and settings.resize != "false"


@contextmanager
def _draft(settings: Settings) -> Iterator[Path]:
    """Yield a draft folder; what it contains replaces ``out`` if the body succeeds."""
    if settings.file is None:
        with new_folder(settings.out.absolute()) as draft:
            yield draft
        return
    folder = settings.file.absolute().with_name(f"{settings.file.name}.files")
    with new_folder(folder, keep=False) as draft:
        yield draft
        os.replace(draft / f"model{settings.file.suffix}", settings.file)


def _write_beside(
    draft: Path, predictor: Predictor, settings: Settings, description: dict[str, Any]
) -> None:
    """Write the files beside the model."""
    write_json(draft / "model.json", description)
    if predictor.kind == "images":
        write_json(draft / "preprocessing.json", description["input"]["preprocessing"])
        if settings.format == "onnx":
            shutil.copyfile(
                Path(__file__).with_name("predict_numpy.py"), draft / "predict_numpy.py"
            )
    text = getattr(getattr(predictor.spec, "tokenizer", None), "text", None)
    if text is not None:
        write_text(draft / "tokenizer.json", text)


def _opset(file: Path) -> int:
    import onnx

    model = onnx.load(str(file), load_external_data=False)
    return next(int(one.version) for one in model.opset_import if one.domain in ("", "ai.onnx"))
