"""From outputs of the network to the answer of a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from tl_lightning import __version__
from tl_lightning.data.transforms.vectors import vector_width
from tl_lightning.inference.predictor import Predictor
from tl_lightning.inference.serving.inputs import Prepared
from tl_lightning.inference.serving.refusal import Refusal
from tl_lightning.models.inputs import joined
from tl_lightning.reliability.assessment import Record

__all__ = ["Model", "Result"]

Array = NDArray[Any]


class Result(NamedTuple):
    """What the model says of a sample.

    Attributes:
        probabilities: Calibrated, float64 ``(K,)``.
        features: float32 ``(D,)``.
        novelty: Fraction of source validation that is more familiar; None if it is not known.
        truncated: Whether it is a text of which the network has seen only the beginning.
        unknown: Whether it is taken for none of the classes; None if that is not recognised.
    """

    probabilities: Array
    features: Array
    novelty: float | None
    truncated: bool
    unknown: bool | None = None


@dataclass(frozen=True)
class Model:
    """A model that is served.

    Attributes:
        predictor: The model.
        precision: Fraction of the predictions that should be right; None: never abstain.
        threshold: Lowest probability with that precision on source validation; None without one.
    """

    predictor: Predictor
    precision: float | None
    threshold: float | None

    @classmethod
    def of(cls, predictor: Predictor, precision: float | None) -> Self:
        """Return the model with the threshold of a precision.

        Raises:
            ConfigError: If the precision cannot be assured.
        """
        return cls(predictor, precision, predictor.threshold(precision))

    @property
    def run(self) -> Path | None:
        """Folder of the run that the checkpoint is in; None for a file elsewhere."""
        folder = self.predictor.file.parent
        return folder.parent if folder.name == "checkpoints" else None

    @cached_property
    def name(self) -> str:
        """Name of the model and of the data it was trained on."""
        parts = (self.predictor.stored.section(key).get("name") for key in ("model", "data"))
        return "-".join(str(part) for part in parts if part)

    def results(self, batch: list[Prepared]) -> list[Result]:
        """Return the results of a batch, in its order."""
        outputs = self.predictor.outputs(joined([one.value for one in batch]))
        probabilities = self.predictor.probabilities(outputs.logits)
        record: Record | None = self.predictor.record
        novelty = None if record is None else record.novelty(outputs.features)
        unknown = self.predictor.unknown(outputs)
        return [
            Result(
                probabilities[row], outputs.features[row],
                None if novelty is None else float(novelty[row]), one.truncated,
                None if unknown is None else bool(unknown[row]),
            )
            for row, one in enumerate(batch)
        ]  # fmt: skip

    def answer(self, result: Result, top: int) -> dict[str, Any]:
        """Return the prediction for a sample as plain values.

        Raises:
            Refusal: If the network's outputs are not finite (500).
        """
        probabilities = result.probabilities
        if not np.isfinite(probabilities).all():
            raise Refusal(500, "not_finite", "the model's outputs are not finite for this input")
        order = np.argsort(-probabilities, kind="stable")[:top]
        names = self.predictor.classes
        best = float(probabilities[order[0]])
        abstained = self.threshold is not None and best < self.threshold
        found = {
            "label": None if abstained else names[int(order[0])],
            "abstained": abstained,
            "novelty": result.novelty,
            "classes": [
                {"name": names[int(k)], "probability": float(probabilities[k])} for k in order
            ],
        }
        if result.unknown is not None:
            found["unknown"] = result.unknown
        return {**found, "truncated": True} if result.truncated else found

    # -- description -------------------------------------------------------------------
    def description(self) -> dict[str, Any]:
        """Return what the model is, without paths or other names of this machine."""
        predictor, stored = self.predictor, self.predictor.stored
        methods = stored.config.get("method") or {}
        backbone = stored.section("backbone")
        return {
            "name": self.name,
            "input": {"kind": predictor.kind, **_format(predictor)},
            "classes": list(predictor.classes),
            "calibration": {"temperature": predictor.temperature},
            "precision": self.precision,
            "threshold": self.threshold,
            "provenance": {
                "tl_lightning": __version__,
                "checkpoint_sha256": predictor.checksum,
                "model": stored.section("model").get("name"),
                "methods": sorted(methods) if isinstance(methods, Mapping) else [],
                "backbone": _name(backbone),
                "data": stored.section("data").get("name"),
                "data_fingerprint": stored.data.get("fingerprint"),
                "seed": stored.config.get("seed"),
            },
        }


def _format(predictor: Predictor) -> dict[str, Any]:
    """Return the limits of an input that the network has, by kind."""
    spec = predictor.spec
    if predictor.kind == "images":
        return {"size": spec.size}
    if predictor.kind == "texts":
        return {"max_tokens": spec.max_length}
    return {"features": vector_width(predictor.stored.input_state, spec.width)}


def _name(backbone: Mapping[str, Any]) -> str:
    """Return the name of a backbone, or that of its class; a path is not returned."""
    name = str(backbone.get("name") or "")
    if not name or "/" in name or "\\" in name:
        name = str(backbone.get("_target_", "")).rpartition(".")[2]
    return name
