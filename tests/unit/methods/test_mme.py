"""MME: the classifier maximises the entropy, the features minimise it."""

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


def test_value_and_signs_of_the_gradients() -> None:
    given, classifier = views(), nn.Linear(D, K)
    method = built(MME, **{**PENALTY, "weight": 0.5})
    terms = method(given, context(classify=classifier))
    f = given["target"].features
    probs = classifier(f).softmax(1)
    expected = entropy(probs.detach().double().numpy(), axis=1).mean()
    assert terms["mme"].item() == pytest.approx(-0.5 * expected, rel=1e-5)
    of_features, of_weight = gradients(terms, f, classifier.weight)
    mean = torch.special.entr(probs).sum(1).mean()
    plain = torch.autograd.grad(mean, [f, classifier.weight])
    assert torch.allclose(of_features, 0.5 * plain[0], atol=1e-6)  # descent decreases it
    assert torch.allclose(of_weight, -0.5 * plain[1], atol=1e-6)  # descent increases it


@pytest.mark.slow
def test_few_shot_target_samples_have_a_task_loss(tmp_path, monkeypatch) -> None:
    records = []
    original = DomainAdaptation.terms

    def watch(self, views, stage):
        result = original(self, views, stage)
        view = views["target_labelled"]
        plain = torch.nn.functional.cross_entropy(view.logits, view.labels)
        records.append((result["task_labelled"].item(), plain.item(), views["target"].labels))
        return result

    monkeypatch.setattr(DomainAdaptation, "terms", watch)
    arguments = ["method=[mme]", "data.target.labelled_per_class=2", "trainer.max_epochs=1"]
    training.fit(config("model=domain_adaptation", *arguments), tmp_path)
    assert len(records) == 3
    for result, plain, unlabelled in records:
        assert result == pytest.approx(plain, rel=1e-5)
        assert unlabelled is None


def test_error_without_few_shot_target_samples() -> None:
    message = r"method=\[mme\] needs few-shot target samples; set data\.target\.labelled_per_class"
    with pytest.raises(ConfigError, match=message):
        validation.check(config("model=domain_adaptation", "method=[mme]"))
