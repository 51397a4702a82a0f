"""SHOT: loss against numpy, centroids against scikit-learn, and the frozen classifier."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity

from helpers import config, weights
from methods import PENALTY, arrays, built, context, entropy, gradients, views
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import CheckpointError
from tl_lightning.methods.base import TargetBank
from tl_lightning.methods.shot import SHOT, centroid_labels
from tl_lightning.training import build as building
from tl_lightning.training import fit as training

PARAMS = {"beta": 0.7, "rounds": 2, **PENALTY}


def test_value() -> None:
    given, method = views(), built(SHOT, **PARAMS)
    torch.manual_seed(1)
    bank = TargetBank(torch.randn(7, 6), torch.randn(7, 3))
    method.begin_epoch(bank)
    p = arrays(given)["pt"]
    labels = method.labels.numpy()
    expected = entropy(p).mean() - entropy(p.mean(0, keepdims=True))[0]
    expected -= 0.7 * np.log(p[np.arange(7), labels]).mean()
    assert method(given, context())["shot"].item() == pytest.approx(expected, rel=1e-4)
    given["source"].logits = torch.zeros(5, 3)
    assert method(given, context())["shot"].item() == pytest.approx(expected, rel=1e-4)


def test_pseudo_labels_are_looked_up_by_sample_index() -> None:
    given, method = views(), built(SHOT, **PARAMS)
    method.labels = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    plain = method(given, context())["shot"]
    given["target"].index = torch.tensor([6, 5, 4, 3, 2, 1, 0])
    method.labels = method.labels.flip(0)
    assert method(given, context())["shot"].item() == pytest.approx(plain.item(), rel=1e-6)


def test_centroid_labels() -> None:
    g = np.random.default_rng(0)
    f, z = g.normal(size=(30, 6)), g.normal(size=(30, 3))
    result = centroid_labels(torch.tensor(f), torch.tensor(z), rounds=2).numpy()
    points = np.concatenate([f, np.ones((30, 1))], axis=1)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    probs = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    for _ in range(2):
        centroids = (probs.T @ points) / probs.sum(0)[:, None]
        labels = cosine_similarity(points, centroids).argmax(1)
        probs = np.eye(3)[labels]
    assert (result == labels).all()
    assert (centroid_labels(torch.tensor(f), torch.tensor(z), 1).numpy() != labels).any()


@pytest.mark.parametrize("scale", [0.1, 50.0, 5e4])
def test_a_class_that_is_never_predicted_is_not_assigned(scale: float) -> None:
    """Whether its centroid would be the mean of all samples, or the only similar one."""
    z = scale * torch.tensor([[1.0, -1.0, 0.0]]).repeat(8, 1)
    for seed in range(20):
        f = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed))
        for rounds in (1, 3):
            assert set(centroid_labels(f, z, rounds).tolist()) == {0}
    f = 10 * torch.eye(6)[:1].repeat(8, 1)
    f[7] *= -1  # opposite to the only centroid
    assert set(centroid_labels(f, z, rounds=1).tolist()) == {0}


def test_pseudo_labels_are_updated_every_epoch() -> None:
    method = built(SHOT, **PARAMS)
    result = []
    for seed in (1, 2):
        given = views(seed=seed)["target"]
        method.begin_epoch(TargetBank(given.features.detach(), given.logits.detach()))
        result.append(method.labels)
        assert torch.equal(result[-1], centroid_labels(given.features, given.logits, 2))
    assert not torch.equal(*result)


def test_pseudo_labels_are_saved_in_checkpoints() -> None:
    method, resumed = built(SHOT, **PARAMS), built(SHOT, **PARAMS)
    resumed.load_state_dict(method.state_dict())
    assert resumed.labels is None  # before the first epoch
    method.begin_epoch(TargetBank(torch.randn(7, 6), torch.randn(7, 3)))
    resumed.load_state_dict(method.state_dict())
    assert torch.equal(resumed.labels, method.labels)


def test_gradient_is_that_of_information_maximisation_on_the_target() -> None:
    given, method = views(), built(SHOT, **{**PARAMS, "beta": 0.0})
    of_source, of_target = gradients(
        method(given, context()), given["source"].logits, given["target"].logits
    )
    assert of_source is None
    p = given["target"].logits.softmax(1)
    im = torch.special.entr(p).sum(1).mean() - torch.special.entr(p.mean(0)).sum()
    expected = torch.autograd.grad(im, given["target"].logits)[0]
    assert torch.allclose(of_target, expected, atol=1e-6)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    training.fit(config("model=source_only"), folder)
    return folder


def source_free(trained, *more):
    return config("model=source_free", "method=[shot]", f"init={trained}", *more)


def test_the_classifier_of_the_initial_run_is_frozen(trained, tmp_path) -> None:
    training.fit(source_free(trained), tmp_path)
    before, after = (weights(p / "checkpoints" / "last.ckpt") for p in (trained, tmp_path))
    frozen = [key for key in before if key.startswith("task.head.classifier")]
    assert frozen
    assert all(torch.equal(before[key], after[key]) for key in frozen)
    assert any(not torch.equal(before[k], after[k]) for k in before if k.startswith("backbone"))


@pytest.mark.slow
def test_the_target_bank_is_in_evaluation_mode_and_in_order(trained, tmp_path, monkeypatch):
    from tl_lightning.models.adaptation import SourceFree

    banks = []
    original, original_bank = SourceFree.on_train_epoch_start, SourceFree._target_bank
    monkeypatch.setattr(
        SourceFree, "_target_bank", lambda self: banks.append(original_bank(self)) or banks[-1]
    )

    def watch(self):
        before = {k: v.clone() for k, v in self.state_dict().items() if "methods." not in k}
        original(self)
        after = self.state_dict()
        assert all(torch.equal(value, after[key]) for key, value in before.items())
        assert self.training
        self.eval()
        first = next(iter(self.trainer.datamodule.whole_loader("target")))
        position = first["index"].tolist().index(5)
        with torch.no_grad():
            alone = self(first["inputs"][position : position + 1])
        self.train()
        assert torch.allclose(banks[-1].logits[5], alone[0], atol=1e-5)

    monkeypatch.setattr(SourceFree, "on_train_epoch_start", watch)
    training.fit(source_free(trained), tmp_path)
    assert len(banks) == 2


def test_no_source_image_is_loaded(trained, tmp_path, monkeypatch) -> None:
    from tl_lightning.models.adaptation import SourceFree

    roles = set()
    original = SourceFree.training_step

    def watch(self, batch, batch_idx):
        roles.update(batch)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(SourceFree, "training_step", watch)
    training.fit(source_free(trained), tmp_path)
    assert roles == {"target"}


def test_error_messages_of_init(trained, tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"init=/nowhere is neither a checkpoint nor"):
        training.fit(source_free("/nowhere"), tmp_path)
    with pytest.raises(CheckpointError, match=r"different backbone .*use the backbone settings"):
        training.fit(source_free(trained, "backbone.features=8"), tmp_path)
    checked = validation.check(source_free(trained))
    with pytest.raises(CheckpointError, match=r"has the classes 0, 1.*use a dataset with the same"):
        building.build_module(checked, ("a", "b"))
