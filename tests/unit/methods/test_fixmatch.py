"""FixMatch: the model's own confident pseudo-labels, and few labels of one domain."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch.nn import functional

from helpers import config
from methods import PENALTY, built, context, gradients, weak_and_strong
from tl_lightning.config.validation import check as validation
from tl_lightning.data.datamodules.digits import DigitsDataModule
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.methods.fixmatch import FixMatch
from tl_lightning.models.adaptation import DomainAdaptation
from tl_lightning.training import fit as training

WEAK = torch.tensor([[9.0, 0, 0], [0, 9.0, 0], [0.1, 0, 0], [0, 0, 9.0]])
FEW = ("data.target=null", "data.labelled_per_class=2")


def test_value_and_gradient() -> None:
    given, weak, strong = weak_and_strong(WEAK)
    terms = built(FixMatch, threshold=0.95, **PENALTY | {"weight": 0.5})(given, context())
    losses = [
        functional.cross_entropy(strong[k], torch.tensor(c)) for k, c in ((0, 0), (1, 1), (3, 2))
    ]
    assert terms["fixmatch"].item() == pytest.approx(0.5 * sum(losses).item() / 4, rel=1e-5)
    of_weak, of_strong = gradients(terms, weak, strong)
    assert of_weak is None
    assert of_strong is not None
    assert of_strong[2].abs().sum() == 0
    assert (of_strong[[0, 1, 3]].abs().sum(1) > 0).all()


@pytest.mark.parametrize("method", ["fixmatch", "flexmatch"])
def test_a_threshold_that_is_no_confidence(method: str) -> None:
    message = f"method.{method}.threshold=2 is not a confidence in [0, 1]; set method.{method}.thr"
    with pytest.raises(ConfigError, match=re.escape(message)):
        validation.check(config(f"model={method}", f"method.{method}.threshold=2"))


# -- few labels of one domain ----------------------------------------------------------------------
def data_of(*overrides: str) -> DigitsDataModule:
    data = validation.check(config("model=fixmatch", *overrides)).data.build()
    data.discover()
    return data


def test_few_samples_keep_their_labels() -> None:
    whole, data = data_of("data.target=null", "model=source_only"), data_of(*FEW)
    source, target = data.found["source"], data.found["target"]
    assert np.bincount(source.train.labels).tolist() == [2] * 10
    assert target.train.names == whole.found["source"].train.names
    assert set(source.train.names) < set(target.train.names)
    assert target.train.labels is None  # nothing can use them
    for split in ("val", "test"):
        assert target.splits()[split].names == source.splits()[split].names
    assert data.class_counts() == [2] * 10
    assert "20 of " in target.note
    assert data_of(*FEW).found["source"].train.names == source.train.names


@pytest.mark.parametrize(("overrides", "message"), [
    (["data.labelled_per_class=2"], "data.labelled_per_class=2 trains on the other samples of the"),
    (["data.target=null", "data.labelled_per_class=0"], "data.labelled_per_class=0 must be at "),
    (["data.target=null", "data.labelled_per_class=99"], "data.labelled_per_class=99, but class '"),
])  # fmt: skip
def test_few_labels_that_are_not_possible(overrides, message) -> None:
    data = validation.check(config("model=source_only", *overrides)).data.build()
    with pytest.raises(DataError, match=re.escape(message)):
        data.discover()


def test_without_target_and_few_labels_there_is_nothing_to_adapt_to() -> None:
    with pytest.raises(ConfigError, match=r"model=fixmatch adapts to a target, but data.tar"):
        validation.check(config("model=fixmatch", "data.target=null"))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fixmatch", "flexmatch", "self_training"])
def test_labels_of_the_other_samples_never_reach_a_loss(method, tmp_path, monkeypatch) -> None:
    seen = []
    original = DomainAdaptation.terms

    def watch(self, views, stage):
        seen.append({name: view.labels is not None for name, view in views.items()})
        return original(self, views, stage)

    monkeypatch.setattr(DomainAdaptation, "terms", watch)
    report = training.fit(
        config(f"model={method}", *FEW, f"method.{method}.threshold=0.1"), tmp_path
    )
    assert seen
    assert all(one == {"source": True, "target": False, "target_strong": False} for one in seen)
    metrics = report["metrics"]
    assert metrics["target/test/acc"] == metrics["source/test/acc"]
    assert report["selection"]["rule"] == "last"
