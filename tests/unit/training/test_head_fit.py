"""A head with hidden layers, trained on the features of a frozen network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tl_lightning.layers import Part
from tl_lightning.methods.components.domain_norm import DomainBatchNorm, replace_norms
from tl_lightning.tasks.head import Head
from tl_lightning.training import head_fit
from tl_lightning.training.head_fit import fit_head
from tl_lightning.training.linear_probe import fit_probe


def head(seed: int = 0, **changes) -> Head:
    settings = {"in_features": 2, "num_classes": 2, "bottleneck": 16, "bottleneck_norm": "batch",
                "width": None, "activation": "relu", "dropout": 0.0, **changes}  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Head(**settings)


def crossed(n: int = 300, seed: int = 0):
    """Return points of four squares, whose class is the parity of the square: not separable."""
    x = np.random.default_rng(seed).uniform(-1, 1, size=(n, 2)).astype(np.float32)
    return x, (x[:, 0] * x[:, 1] > 0).astype(np.int64)


def fitted(start: Head, seed: int = 0, scale: float = 1.0):
    (x, y), (val, val_y) = crossed(), crossed(100, seed=1)
    return fit_head(start, scale * x, y, scale * val, val_y, seed)


HEADS = (
    {}, {"bottleneck_norm": "layer"}, {"bottleneck_norm": "none", "activation": "tanh"},
    {"bottleneck": None, "width": 16}, {"width": 16, "dropout": 0.2},
)  # fmt: skip


@pytest.mark.parametrize("changes", HEADS)
def test_learns_what_no_linear_classifier_can(changes) -> None:
    (x, y), (val, val_y), (test, test_y) = crossed(), crossed(100, seed=1), crossed(500, seed=2)
    assert np.mean(fit_probe(x, y, val, val_y, 2).logits(test).argmax(1) == test_y) < 0.7
    logits = fitted(head(**changes)).outputs(test)[1]
    assert np.mean(logits.argmax(1) == test_y) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"bottleneck": None, "width": 16}])
def test_features_of_another_scale_give_the_same_predictions(changes) -> None:
    test = crossed(500, seed=2)[0]
    one, other = fitted(head(**changes)), fitted(head(**changes), scale=64.0)
    np.testing.assert_allclose(one.outputs(test)[1], other.outputs(64 * test)[1], atol=1e-3)


@pytest.mark.slow
def test_depends_only_on_the_arguments_and_leaves_random_numbers_alone() -> None:
    test = crossed(500, seed=2)[0]
    torch.manual_seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = fitted(head(dropout=0.5)).outputs(test)[1]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    torch.manual_seed(4)
    assert np.array_equal(fitted(head(dropout=0.5)).outputs(test)[1], first)
    for other in (fitted(head(dropout=0.5), seed=1), fitted(head(seed=1, dropout=0.5))):
        assert not np.array_equal(other.outputs(test)[1], first)


def test_the_model_with_the_best_validation_accuracy_is_kept(monkeypatch) -> None:
    found = []
    original = head_fit._scored

    def scored(*arguments):
        found.append(original(*arguments))
        return found[-1]

    monkeypatch.setattr(head_fit, "_scored", scored)
    kept = fitted(head(width=16))
    assert len(found) == head_fit.CHECKS
    best = max(range(len(found)), key=lambda k: found[k])
    assert kept.accuracy == found[best][0]
    assert kept.step == (best + 1) * head_fit.STEPS // head_fit.CHECKS
    val, val_y = crossed(100, seed=1)
    assert np.mean(kept.outputs(val)[1].argmax(1) == val_y) == pytest.approx(kept.accuracy)


@pytest.mark.slow
def test_more_steps_do_not_raise_the_validation_accuracy(monkeypatch) -> None:
    accuracy = fitted(head()).accuracy
    monkeypatch.setattr(head_fit, "STEPS", 4 * head_fit.STEPS)
    assert fitted(head()).accuracy <= accuracy + 0.02


def test_passes_over_many_samples_take_more_steps(monkeypatch) -> None:
    monkeypatch.setattr(head_fit, "STEPS", 4)
    monkeypatch.setattr(head_fit, "BATCH", 30)
    steps = []
    monkeypatch.setattr(head_fit, "_scored", lambda *_: (float(len(steps)), steps.append(0) or 0.0))
    assert fitted(head()).step == head_fit.PASSES * 300 // 30


@pytest.mark.parametrize("sources", [1, 2])
def test_is_written_to_all_domains_of_separate_batch_norms(sources) -> None:
    kept, other = fitted(head()), head(seed=1)
    assert replace_norms(other, lambda norm: DomainBatchNorm(norm, True, sources)) == 1
    kept.write(other)
    test = crossed(500, seed=2)[0]
    features, logits = kept.outputs(test)
    norm = next(part for part in other.modules() if isinstance(part, DomainBatchNorm))
    halves = dict(enumerate(torch.arange(len(test)).chunk(sources)))
    for domain in ("source", "target"):
        norm.parts = [Part(domain, len(test), halves)]
        found = other.eval()(torch.from_numpy(test))
        np.testing.assert_allclose(found[0].detach(), features, atol=1e-6)
        np.testing.assert_allclose(found[1].detach(), logits, atol=1e-6)


def test_other_parts_of_a_head_are_left_as_they_are() -> None:
    """A map of the target's features stands before the layers that are fitted."""
    kept, other = fitted(head()), head(seed=1)
    other.alignment = nn.Linear(2, 2)
    before = other.alignment.weight.clone()
    kept.write(other)
    assert torch.equal(other.alignment.weight, before)
    for name, value in kept.head.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
