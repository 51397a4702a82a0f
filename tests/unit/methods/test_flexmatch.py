"""FlexMatch: thresholds of the classes, and their state."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from helpers import config, weights
from methods import PENALTY, built, context, gradients, weak_and_strong
from tl_lightning.errors import ConfigError
from tl_lightning.methods import flexmatch as module
from tl_lightning.methods.flexmatch import FlexMatch
from tl_lightning.training import fit as training

WEAK = torch.tensor([[9.0, 0, 0], [0, 2.0, 0], [0.0, 0, 1.5]])


def method(samples: int = 10) -> FlexMatch:
    found: FlexMatch = built(FlexMatch, threshold=0.9, num_samples=samples, **PENALTY)
    return found


def test_thresholds_follow_the_confident_predictions() -> None:
    flex = method()
    assert flex.thresholds().tolist() == [0, 0, 0]  # nothing is confident yet
    flex.latest[:6] = torch.tensor([0, 0, 0, 0, 1, 2])
    learned = torch.tensor([1.0, 0.25, 0.25])  # 4 of max(4, 10 - 6)
    assert torch.allclose(flex.thresholds(), 0.9 * learned / (2 - learned))
    flex.latest[4:6] = -1
    learned = torch.tensor([4 / 6, 0, 0])  # more samples are not confident than of any class
    assert torch.allclose(flex.thresholds(), 0.9 * learned / (2 - learned))


def test_value_and_gradient() -> None:
    given, weak, strong = weak_and_strong(WEAK)
    flex = method()
    flex.latest[:8] = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2])
    confidence = WEAK.softmax(1).max(1).values
    assert (confidence >= flex.thresholds()).tolist() == [True, True, True]
    flex.latest[:8] = torch.tensor([2, 2, 2, 2, 2, 2, 2, 1])
    assert (confidence >= flex.thresholds()).tolist() == [True, True, False]
    terms = flex(given, context())
    losses = [functional.cross_entropy(strong[k], torch.tensor(k)) for k in (0, 1)]
    assert terms["flexmatch"].item() == pytest.approx(sum(losses).item() / 3, rel=1e-5)
    of_weak, of_strong = gradients(terms, weak, strong)
    assert of_weak is None
    assert of_strong is not None


def test_confident_predictions_are_counted_by_sample() -> None:
    given, _, _ = weak_and_strong(WEAK)
    given["target"].index = torch.tensor([7, 2, 4])
    flex = method()
    flex.latest[4] = 1
    flex(given, context())
    assert flex.latest[[7, 2, 4]].tolist() == [0, -1, 1]  # an uncertain one keeps its last class


def test_samples_of_all_ranks_are_counted(monkeypatch) -> None:
    others = iter([torch.tensor([0, 9]), torch.tensor([2, -1])])  # indices and labels of a rank
    monkeypatch.setattr(module, "gathered_tensor", lambda own: torch.cat([own, next(others)]))
    given, _, _ = weak_and_strong(WEAK)
    given["target"].index = torch.tensor([7, 2, 4])
    flex = method()
    flex(given, context())
    assert flex.latest.tolist() == [2, -1, -1, -1, -1, -1, -1, 0, -1, -1]


@pytest.mark.slow
def test_the_number_of_samples_is_taken_from_the_data(tmp_path) -> None:
    settings = ("model=flexmatch", "data.target=null", "data.labelled_per_class=2")
    training.fit(config(*settings, "method.flexmatch.threshold=0.15"), tmp_path)
    latest = weights(tmp_path / "checkpoints" / "last.ckpt")["methods.flexmatch.latest"]
    assert latest.shape == (539,)
    assert (latest >= 0).any()
    with pytest.raises(ConfigError, match=r"method\.flexmatch\.num_samples=null is taken from the"):
        built(FlexMatch, threshold=0.9, num_samples=None, **PENALTY)
