"""MME: who raises the entropy and who lowers it."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import entropy
from torch import nn

from helpers import config
from methods import PENALTY, D, K, built, context, gradients, views
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import ConfigError
from tl_lightning.methods.mme import MME
from tl_lightning.models.adaptation import DomainAdaptation
from tl_lightning.training import fit as training


def test_classifier_up_features_down() -> None:
    given, classifier = views(), nn.Linear(D, K)
    method = built(MME, **{**PENALTY, "weight": 0.5})
    terms = method(given, context(classify=classifier))
    f = given["target"].features
    shares = classifier(f).softmax(1)
    wanted = entropy(shares.detach().double().numpy(), axis=1).mean()
    assert terms["mme"].item() == pytest.approx(-0.5 * wanted, rel=1e-5)
    of_features, of_weight = gradients(terms, f, classifier.weight)
    mean = torch.special.entr(shares).sum(1).mean()
    straight = torch.autograd.grad(mean, [f, classifier.weight])
    assert torch.allclose(of_features, 0.5 * straight[0], atol=1e-6)  # descent lowers it
    assert torch.allclose(of_weight, -0.5 * straight[1], atol=1e-6)  # descent raises it


def test_the_labelled_pictures_teach_as_the_sources_do(tmp_path, monkeypatch) -> None:
    seen = []
    honest = DomainAdaptation.terms

    def watch(self, views, stage):
        found = honest(self, views, stage)
        view = views["target_labelled"]
        plain = torch.nn.functional.cross_entropy(view.logits, view.labels)
        seen.append((found["task_labelled"].item(), plain.item(), views["target"].labels))
        return found

    monkeypatch.setattr(DomainAdaptation, "terms", watch)
    arguments = ["adapter=[mme]", "data.target.labelled_per_class=2", "trainer.max_epochs=1"]
    training.fit(config("model=domain_adaptation", *arguments), tmp_path)
    assert len(seen) == 3
    for found, plain, unlabelled in seen:
        assert found == pytest.approx(plain, rel=1e-5)
        assert unlabelled is None


def test_words() -> None:
    with pytest.raises(
        ConfigError, match=r"adapter=\[mme\] needs a few labelled .*type data.target"
    ):
        validation.check(config("model=domain_adaptation", "adapter=[mme]"))
