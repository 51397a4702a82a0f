"""A trained model with all that its predictions need, loaded once and used for many batches."""

from __future__ import annotations

import copy
import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import softmax
from torch import Tensor

from tl_lightning.checkpoints.io import StoredModel, read_model
from tl_lightning.checkpoints.warm_start import checkpoint_of
from tl_lightning.data.cache.tokens import padded
from tl_lightning.data.io.images import UNREADABLE, decode, fitted, open_image, shorter_side
from tl_lightning.data.transforms.geometry import Centre
from tl_lightning.data.transforms.vectors import network_rows
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.evaluation.load import rebuilt
from tl_lightning.models.base import TransferModule
from tl_lightning.reliability.assessment import NOT_STORED, Record
from tl_lightning.tasks.label_task import LabelTask
from tl_lightning.types import InputSpec, Stream, TextSpec

__all__ = ["Kind", "Outputs", "Predictor"]

Array = NDArray[Any]
Kind = Literal["images", "texts", "vectors"]


class Outputs(NamedTuple):
    """Outputs of the network for a batch.

    Attributes:
        features: float32 ``(B, D)``, the input of the classifier.
        logits: float32 ``(B, K)``.
    """

    features: Array
    logits: Array


@dataclass(frozen=True)
class Predictor:
    """A trained model prepared for predictions; what it returns for a sample depends on it alone.

    Attributes:
        file: The checkpoint.
        stored: What it contains.
        module: The model, in evaluation mode and on its device.
    """

    file: Path
    stored: StoredModel
    module: TransferModule

    @classmethod
    def open(
        cls, checkpoint: str | Path, allow: Sequence[str] = (), device: str | None = None
    ) -> Self:
        """Load a model.

        Args:
            checkpoint: A checkpoint or run folder.
            allow: Full names of additional classes that its configuration may build.
            device: Such as ``cuda:1``; None: the first GPU if there is one, else the CPU.

        Raises:
            CheckpointError: If it is not found, corrupt or not a checkpoint of this framework.
            ConfigError: If its configuration names a class that must not be built.
        """
        file = checkpoint_of(Path(checkpoint).expanduser(), "checkpoint")
        stored = read_model(file)
        module = rebuilt(stored, file, allow)
        module.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        return cls(file, stored, module)

    def on(self, device: str) -> Self:
        """Return a copy of the model on another device."""
        return replace(self, module=copy.deepcopy(self.module).to(device))

    @property
    def spec(self) -> Any:
        """Input format of the network: an InputSpec, TextSpec or VectorSpec."""
        return self.module.backbone.input_spec

    @property
    def kind(self) -> Kind:
        """What it classifies."""
        if isinstance(self.spec, InputSpec):
            return "images"
        return "texts" if isinstance(self.spec, TextSpec) else "vectors"

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        return self.module.classes

    @property
    def of_labels(self) -> bool:
        """Whether it predicts numbers or any number of labels instead of one class."""
        return isinstance(self.module.task, LabelTask)

    def needs_classes(self, command: str) -> None:
        """Raise ConfigError if the model does not predict one class per sample."""
        if self.of_labels:
            raise ConfigError(
                f"{command} is for models that predict classes, but {self.file} has task="
                f"{self.module.task.kind}; use tl-predict or tl-evaluate"
            )

    @cached_property
    def record(self) -> Record | None:
        """Outputs on source validation; None in checkpoints and published models without."""
        return Record.of(self.stored.reliability)

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the checkpoint, in hexadecimal digits."""
        with self.file.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def threshold(self, precision: float | None) -> float | None:
        """Return the lowest probability with this precision; None without one.

        Raises:
            ConfigError: If the precision cannot be assured.
        """
        if precision is None:
            return None
        if self.record is None:
            raise ConfigError(f"precision={precision:g} cannot be assured: {NOT_STORED}")
        return self.record.threshold(precision)

    @cached_property
    def temperature(self) -> float:
        """What logits are divided by; fitted in training, and 1 in checkpoints without a record.

        That of the run's target, fitted without labels, if the run had a target, otherwise that
        of source validation. A model published without its outputs on source validation has it.
        """
        found = (self.stored.reliability.get(k) for k in ("target_temperature", "temperature"))
        return next((float(t) for t in found if t is not None and np.isfinite(t)), 1.0)

    def image(self, source: Path | bytes | Array, where: str = "") -> Tensor:
        """Return the network's input ``(3, S, S)`` uint8 for an image.

        Args:
            source: The file, its bytes or its decoded pixels ``(H, W, 3)`` uint8.
            where: Name of the bytes in messages.

        Raises:
            DataError: If it cannot be decoded.
        """
        shorter, white = shorter_side(self.spec), self.stored.input_state.get("max_value")
        if isinstance(source, Path):
            image = open_image(source, shorter, white)
        elif isinstance(source, np.ndarray):
            image = torch.from_numpy(source).permute(2, 0, 1)
        else:
            try:
                pixels = decode(io.BytesIO(source), shorter, white).pixels
            except UNREADABLE as error:
                reason = str(error) or type(error).__name__
                raise DataError(f"cannot read image {where}: {reason}") from error
            image = torch.from_numpy(np.array(pixels, order="C")).permute(2, 0, 1)
        out = torch.empty((1, self.spec.size, self.spec.size, 3), dtype=torch.uint8)
        self._geometry([fitted(image, shorter, self.spec)], [0], out)
        return out[0].permute(2, 0, 1)

    @cached_property
    def _geometry(self) -> Centre:
        return Centre(self.spec)

    def tokens(self, texts: Sequence[str]) -> tuple[Tensor, int]:
        """Return token ids ``(B, L)`` of texts, and how many texts were truncated."""
        encoded = self.spec.tokenizer.encode(list(texts), self.spec.max_length)
        ids = padded([np.asarray(row) for row, _ in encoded])
        return ids, sum(truncated for _, truncated in encoded)

    def vectors(self, rows: Any) -> Tensor:
        """Return the network's input ``(B, C)`` float32 for vectors as they are in a file.

        Columns are selected and scaled as in training.

        Args:
            rows: ``(B, F)`` numbers, dense or sparse (CSR).

        Raises:
            DataError: If they are not of that shape, not finite or of another width.
        """
        x: Any = rows.tocsr() if sparse.issparse(rows) else np.asarray(rows)
        if x.ndim != 2 or not np.issubdtype(x.dtype, np.number):
            raise DataError(
                f"vectors must be numbers of shape (samples, features), got shape {x.shape} and "
                f"dtype {x.dtype}"
            )
        state, width = self.stored.input_state, self.spec.width
        whole = state.get("width", width) - bool(state.get("first"))
        fits = x.shape[1] <= whole + bool(state.get("first")) if sparse.issparse(x) else (
            x.shape[1] == whole
        )  # fmt: skip
        if not fits:
            raise DataError(
                f"the vectors have {x.shape[1]} features, but the model was trained on {whole}; "
                "use vectors with the same features"
            )
        found = network_rows(x.astype(np.float32), state)
        if not np.isfinite(found).all():
            bad = int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])
            raise DataError(f"vector {bad} (counted from 0) contains NaN or infinity; remove it")
        return torch.from_numpy(np.ascontiguousarray(found))

    @torch.inference_mode()
    def outputs(self, inputs: Tensor) -> Outputs:
        """Return features and logits of a batch of network inputs: target samples.

        Args:
            inputs: Images ``(B, 3, S, S)`` uint8, token ids ``(B, L)`` or vectors ``(B, F)``.
        """
        module = self.module
        module.set_batch_domains({Stream.TARGET: len(inputs)})
        features, logits = module.task(module.extract(inputs.to(module.device)))
        return Outputs(features.float().cpu().numpy(), logits.float().cpu().numpy())

    @property
    def recognises_unknown(self) -> bool:
        """Whether it recognises samples of no class, see ``rejection`` in the configuration."""
        task = self.module.task
        # Fitted in the selected checkpoint of a run only.
        return task.rejection is not None and bool(torch.isfinite(task.rejection.threshold))

    @torch.inference_mode()
    def unknown(self, outputs: Outputs) -> Array | None:
        """Return which samples ``(B,)`` are taken for none of the classes, as in the run's test.

        None if the model does not recognise such samples.
        """
        if not self.recognises_unknown:
            return None
        device = self.module.device
        found = self.module.task.rejects(*(torch.from_numpy(part).to(device) for part in outputs))
        return None if found is None else found.cpu().numpy()

    def values(self, logits: Array) -> Array | None:
        """Return the numbers ``(B, K)`` predicted besides, or in place of, a class.

        Numbers in the unit of the labels; the probability of each of several labels; the expected
        one of ordered levels ``(B, 1)``, as the integer that it stands for, or as its place from 0.
        None for other classes.
        """
        task = self.module.task
        if isinstance(task, LabelTask):
            return task.values(torch.from_numpy(logits)).numpy()
        if task.kind != "ordinal":
            return None
        whole = all(re.fullmatch(r"[+-]?\d+", name) for name in self.classes)
        levels = [int(name) if whole else place for place, name in enumerate(self.classes)]
        found: Array = self.probabilities(logits) @ np.array(levels, dtype=np.float64)
        return found[:, None]

    @property
    def value_names(self) -> tuple[str, ...]:
        """Names of :meth:`values`; empty if there are none."""
        if self.of_labels:
            return self.classes
        return ("number",) if self.module.task.kind == "ordinal" else ()

    def probabilities(self, logits: Array) -> Array:
        """Return calibrated probabilities ``(B, K)``, float64."""
        found: Array = softmax(logits.astype(np.float64) / self.temperature, axis=1)
        return found
