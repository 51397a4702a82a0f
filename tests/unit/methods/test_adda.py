"""ADDA: source first, then the target's encoder against a discriminator."""

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

KNOBS = {"weight": 0.5, "pretrain": 0.4, "width": 8, "depth": 1, "activation": "relu"}


def late():
    given = views()
    given["source"].twin_features = torch.randn(N, 6)
    return given, built(ADDA, **KNOBS)


def test_values() -> None:
    given, method = late()
    terms = method(given, context(0.8))
    ds, dt = (
        method.domain_logits(f, None).detach().double().numpy()
        for f in (given["source"].twin_features, given["target"].features)
    )
    assert terms["adda"].item() == pytest.approx(0.5 * np.logaddexp(0, -dt).mean(), rel=1e-5)
    wanted = 0.5 * (np.logaddexp(0, -ds).mean() + np.logaddexp(0, dt).mean())
    assert terms["adda_discriminator"].item() == pytest.approx(wanted, rel=1e-5)


def test_each_player_has_its_own_gradient() -> None:
    """The encoder by the inverted label, the discriminator by the domain loss and nothing else."""
    given, method = late()
    target = given["target"].features
    own = list(method.parameters())
    terms = method(given, context(0.8))
    found = gradients(terms, target, *own)
    logits = method.domain_logits(target, None)
    fooled = torch.nn.functional.softplus(-logits).mean()
    assert torch.allclose(found[0], 0.5 * torch.autograd.grad(fooled, target)[0], atol=1e-6)
    detached = [
        method.domain_logits(f.detach(), None) for f in (given["source"].twin_features, target)
    ]
    for a, b in zip(found[1:], torch.autograd.grad(domain_loss(*detached), own), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_before_its_time_only_the_source_is_learnt() -> None:
    given, method = late()
    assert [method.task_weight(p) for p in (0.0, 0.39, 0.4, 1.0)] == [1, 1, 0, 0]
    terms = method(given, context(0.3))
    assert all(term.item() == 0 for term in terms.values())
    never = built(ADDA, **{**KNOBS, "weight": 0.0})
    assert never.task_weight(1.0) == 1.0


def test_a_run_forgets_the_sources_labels_at_half_time(tmp_path, monkeypatch) -> None:
    seen = []
    honest = DomainAdaptation.terms

    def watch(self, views, stage):
        found = honest(self, views, stage)
        seen.append({name: term.item() for name, term in found.items()})
        return found

    monkeypatch.setattr(DomainAdaptation, "terms", watch)
    training.fit(config("model=domain_adaptation", "adapter=[adda]"), tmp_path)
    for terms in seen[:3]:
        assert terms["task"] > 0
        assert terms["adda"] == terms["adda_discriminator"] == 0
    for terms in seen[3:]:
        assert terms["task"] == 0
        assert min(terms["adda"], terms["adda_discriminator"]) > 0
    assert len(seen) == 6


def test_the_copy_is_the_model_at_half_time_and_stays(tmp_path, monkeypatch) -> None:
    kept = {}
    honest = DomainAdaptation.on_train_batch_start

    def watch(self, batch, batch_idx):
        honest(self, batch, batch_idx)
        if self.batches == 3:  # six batches in all
            kept.update({k: v.clone() for k, v in self.backbone.state_dict().items()})

    monkeypatch.setattr(DomainAdaptation, "on_train_batch_start", watch)
    training.fit(config("model=domain_adaptation", "adapter=[adda]"), tmp_path)
    state = weights(tmp_path / "checkpoints" / "last.ckpt")
    for name, value in kept.items():
        assert torch.equal(state[f"twin.backbone.{name}"], value)
    assert any((state[f"backbone.{k}"] != v).any() for k, v in kept.items())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_classifier_rests_once_the_source_is_learnt(tmp_path, monkeypatch, optimizer) -> None:
    """Gradients of 0 would leave it to momentum and decay; discriminator and encoder go on."""
    seen = []
    honest = DomainAdaptation.on_train_batch_start

    def watch(self, batch, batch_idx):
        honest(self, batch, batch_idx)
        parts = {"rests": self.task.head.classifier, "learns": self.backbone}
        seen.append({k: [p.detach().clone() for p in m.parameters()] for k, m in parts.items()})

    monkeypatch.setattr(DomainAdaptation, "on_train_batch_start", watch)
    overrides = ["model=domain_adaptation", "adapter=[adda]", f"optimizer={optimizer}"]
    training.fit(config(*overrides, "optimizer.weight_decay=0.1"), tmp_path)

    def same(a, b, part) -> bool:
        return all(torch.equal(x, y) for x, y in zip(seen[a][part], seen[b][part], strict=True))

    assert len(seen) == 6
    assert not same(2, 3, "rests")
    assert same(3, 5, "rests")
    assert not same(3, 5, "learns")
