"""The accuracy to expect without labels, compared with a second model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tl_lightning.checkpoints.io import StoredModel
from tl_lightning.errors import DataError
from tl_lightning.evaluation.expected import expected_lines
from tl_lightning.evaluation.outputs import Outputs
from tl_lightning.reliability.accuracy import estimate_accuracy

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 400)
SOURCE = RNG.normal(size=(400, 3)) + 3 * np.eye(3)[LABELS]
TARGET = (RNG.normal(size=(300, 3)) + 3 * np.eye(3)[RNG.integers(0, 3, 300)]).astype(np.float32)


def model(name: str, *methods: str) -> StoredModel:
    config = {"model": {"name": name}, "method": {key: {} for key in methods}}
    record: Any = {"logits": SOURCE, "labels": LABELS, "features": SOURCE, "temperature": 1.0}
    return StoredModel(config, ("a", "b", "c"), {}, {}, {}, {}, reliability=record)


def outputs(logits: Any, start: int = 0, labels: Any = None) -> dict[str, Outputs]:
    files = [f"{start + k}.png" for k in range(len(logits))]
    return {"target": Outputs(np.arange(len(logits)), logits, labels, files)}


def test_the_estimate_is_that_with_the_logits_of_the_other_model() -> None:
    other = np.where(np.arange(300)[:, None] < 180, TARGET, -TARGET)
    lines = expected_lines(model("dann", "dann"), outputs(TARGET), model("source_only"),
                           outputs(other), "runs/b")  # fmt: skip
    found = estimate_accuracy(SOURCE, LABELS, TARGET.astype(float), other_logits=other)
    value, low, high = (f"{100 * x:.0f}" for x in (found.value, found.low, found.high))
    assert f"expected accuracy on the target: {value} % ({low} to {high} %)" in lines[0]
    assert (
        lines[-1] == "compared with runs/b, which predicts the same class for 60 % of these samples"
    )
    alone = expected_lines(model("dann", "dann"), outputs(TARGET))
    assert alone[0] != lines[0]
    assert len(alone) == 1


@pytest.mark.parametrize(("second", "logits", "reason"), [
    (model("dann", "dann"), -TARGET, "both are dann, and models that were trained alike make"),
    (model("source_only"), TARGET, "both models have the same outputs"),
])  # fmt: skip
def test_models_that_are_alike_are_not_compared(second, logits, reason: str) -> None:
    first = model("dann", "dann")
    lines = expected_lines(first, outputs(TARGET), second, outputs(logits), "runs/b")
    assert lines[:-1] == expected_lines(first, outputs(TARGET))
    assert lines[-1].startswith(f"note: the estimate is not compared with runs/b: {reason}")


def test_other_samples_are_an_error() -> None:
    with pytest.raises(DataError, match=r"different samples of the target \(300 and 300"):
        expected_lines(model("dann"), outputs(TARGET), model("mcc"), outputs(-TARGET, 7), "b")


def test_domains_with_labels_have_no_lines() -> None:
    assert expected_lines(model("dann"), outputs(TARGET, labels=np.zeros(300, dtype=int))) == []
