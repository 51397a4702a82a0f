"""Features that are not finite end in the guard's message, whatever a method does with them."""

from __future__ import annotations

import math
import warnings

import pytest

from conftest import REPO
from contract.test_methods import CLASSES, METHODS, arguments, core_first, trained
from helpers import config
from tl_lightning.errors import ConfigError, TrainingError
from tl_lightning.models.base import TransferModule
from tl_lightning.training import fit as training

__all__ = ["trained"]

SHORT = ("trainer.max_epochs=1", "data.num_workers=0", "test=false")
MESSAGE = r"the loss is not finite at epoch 1, batch 1 .*the batch contains (source|target) digit"


@pytest.fixture(params=[float("nan"), float("inf")])
def broken(request, monkeypatch) -> float:
    """Make the features of the second training batch not finite; return the value."""
    original = TransferModule.extract

    def extract(self, inputs):
        features = original(self, inputs)
        loop = self.trainer.fit_loop.epoch_loop
        return features * request.param if self.training and loop.batch_idx == 1 else features

    monkeypatch.setattr(TransferModule, "extract", extract)
    return request.param


def stopped_and_skipped(tmp_path, value: float, *overrides: str) -> None:
    with pytest.raises(TrainingError, match=MESSAGE):
        training.fit(config(*overrides, *SHORT), tmp_path / "stop")
    if math.isinf(value):
        return
    skip = ("callbacks.nan_guard.on_nan=skip", "callbacks.nan_guard.max_skipped=9")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        report = training.fit(config(*overrides, *skip, *SHORT), tmp_path / "skip")
    assert any(note.startswith("1 batch(es) skipped") for note in report["notes"])


@pytest.mark.parametrize("name", core_first(METHODS))
def test_methods(name, trained, broken, tmp_path) -> None:
    stopped_and_skipped(tmp_path, broken, *arguments(name, trained))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", sorted(path.stem for path in (REPO / "conf" / "regularizer").glob("*.yaml"))
)
def test_regularizers(name, broken, tmp_path) -> None:
    stopped_and_skipped(tmp_path, broken, "model=source_only", f"regularizer=[{name}]")


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("name", METHODS)
def test_the_smallest_batches_are_finite_or_refused(name, size, trained, tmp_path) -> None:
    settings = config(*arguments(name, trained), *SHORT, f"data.batch_size={size}")
    if size < CLASSES[name].smallest_batch:
        least = CLASSES[name].smallest_batch
        message = (
            rf"method=\[{name}\] compares the samples of a batch and needs at least {least} per"
        )
        with pytest.raises(ConfigError, match=message):
            training.fit(settings, tmp_path)
    else:
        training.fit(settings, tmp_path)  # the guard checks every loss


def test_batch_norm_of_one_vector_is_one_error(tmp_path) -> None:
    settings = config("model=source_only", "head.bottleneck=4", *SHORT, "data.batch_size=1")
    with pytest.raises(ConfigError, match=r"batch of one sample \(data.batch_size=1\); set data"):
        training.fit(settings, tmp_path)
