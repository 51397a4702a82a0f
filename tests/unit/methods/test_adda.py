"""ADDA: pretraining on the source, then adversarial training of the target encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers import config, weights
from methods import N, built, context, gradients, views
from tl_lightning.methods.adda import ADDA
from tl_lightning.methods.components.adversary import domain_loss
from tl_lightning.models.adaptation import DomainAdaptation
from tl_lightning.training import fit as training

PARAMS = {"weight": 0.5, "pretrain": 0.4, "width": 8, "depth": 1, "activation": "relu"}


def after_pretraining():
    given = views()
    given["source"].teacher_features = torch.randn(N, 6)
    return given, built(ADDA, **PARAMS)


def test_values() -> None:
    given, method = after_pretraining()
    terms = method(given, context(0.8))
    ds, dt = (
        method.domain_logits(f, None).detach().double().numpy()
        for f in (given["source"].teacher_features, given["target"].features)
    )
    assert terms["adda"].item() == pytest.approx(0.5 * np.logaddexp(0, -dt).mean(), rel=1e-5)
    expected = 0.5 * (np.logaddexp(0, -ds).mean() + np.logaddexp(0, dt).mean())
    assert terms["adda_discriminator"].item() == pytest.approx(expected, rel=1e-5)


def test_encoder_and_discriminator_have_separate_gradients() -> None:
    """The encoder uses inverted labels, the discriminator only the domain loss."""
    given, method = after_pretraining()
    target = given["target"].features
    own = list(method.parameters())
    terms = method(given, context(0.8))
    result = gradients(terms, target, *own)
    logits = method.domain_logits(target, None)
    inverted = torch.nn.functional.softplus(-logits).mean()
    assert torch.allclose(result[0], 0.5 * torch.autograd.grad(inverted, target)[0], atol=1e-6)
    detached = [
        method.domain_logits(f.detach(), None) for f in (given["source"].teacher_features, target)
    ]
    for a, b in zip(result[1:], torch.autograd.grad(domain_loss(*detached), own), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_pretraining_uses_only_the_source() -> None:
    given, method = after_pretraining()
    assert [method.task_weight(p) for p in (0.0, 0.39, 0.4, 1.0)] == [1, 1, 0, 0]
    terms = method(given, context(0.3))
    assert all(term.item() == 0 for term in terms.values())
    never = built(ADDA, **{**PARAMS, "weight": 0.0})
    assert never.task_weight(1.0) == 1.0


@pytest.mark.slow
def test_source_loss_stops_after_pretraining(tmp_path, monkeypatch) -> None:
    records = []
    original = DomainAdaptation.terms

    def watch(self, views, stage):
        result = original(self, views, stage)
        records.append({name: term.item() for name, term in result.items()})
        return result

    monkeypatch.setattr(DomainAdaptation, "terms", watch)
    training.fit(config("model=domain_adaptation", "method=[adda]"), tmp_path)
    for terms in records[:3]:
        assert terms["task"] > 0
        assert terms["adda"] == terms["adda_discriminator"] == 0
    for terms in records[3:]:
        assert terms["task"] == 0
        assert min(terms["adda"], terms["adda_discriminator"]) > 0
    assert len(records) == 6


@pytest.mark.slow
def test_the_frozen_copy_is_the_pretrained_model(tmp_path, monkeypatch) -> None:
    copied = {}
    original = DomainAdaptation.on_train_batch_start

    def watch(self, batch, batch_idx):
        original(self, batch, batch_idx)
        if self.batches == 3:  # of six batches
            copied.update({k: v.clone() for k, v in self.backbone.state_dict().items()})

    monkeypatch.setattr(DomainAdaptation, "on_train_batch_start", watch)
    training.fit(config("model=domain_adaptation", "method=[adda]"), tmp_path)
    state = weights(tmp_path / "checkpoints" / "last.ckpt")
    for name, value in copied.items():
        assert torch.equal(state[f"teacher.backbone.{name}"], value)
    assert any((state[f"backbone.{k}"] != v).any() for k, v in copied.items())


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_classifier_is_fixed_after_pretraining(tmp_path, monkeypatch, optimizer) -> None:
    """With zero gradients, momentum and weight decay would change it; the encoder is trained."""
    records = []
    original = DomainAdaptation.on_train_batch_start

    def watch(self, batch, batch_idx):
        original(self, batch, batch_idx)
        parts = {"classifier": self.task.head.classifier, "encoder": self.backbone}
        records.append({k: [p.detach().clone() for p in m.parameters()] for k, m in parts.items()})

    monkeypatch.setattr(DomainAdaptation, "on_train_batch_start", watch)
    overrides = ["model=domain_adaptation", "method=[adda]", f"optimizer={optimizer}"]
    training.fit(config(*overrides, "optimizer.weight_decay=0.1"), tmp_path)

    def same(a, b, part) -> bool:
        return all(
            torch.equal(x, y) for x, y in zip(records[a][part], records[b][part], strict=True)
        )

    assert len(records) == 6
    assert not same(2, 3, "classifier")
    assert same(3, 5, "classifier")
    assert not same(3, 5, "encoder")
