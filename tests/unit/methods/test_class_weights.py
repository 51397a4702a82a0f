"""Class weights of the source, and what they change in losses and methods."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional

from helpers import config
from methods import PENALTY, K, arrays, built, context, views
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import ConfigError
from tl_lightning.losses.classification import CrossEntropy, Focal
from tl_lightning.methods.base import TargetBank
from tl_lightning.methods.class_weights import ClassWeights
from tl_lightning.methods.components.adversary import domain_loss
from tl_lightning.methods.dann import DANN
from tl_lightning.methods.mmd import MMD
from tl_lightning.reliability.label_shift import mlls

ADVERSARY = {
    "max_lambda": 1.0, "gain": 10.0, "ramp_steps": None, "width": 4, "depth": 1, "dropout": 0.0,
    "norm": "none", "activation": "relu",
}  # fmt: skip


#: Predictions in which the first two classes are confused, and the third does not occur.
LOGITS = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.2, 0.7, 0.1]]).log()
COUNTS = torch.tensor([10, 20, 10])


@pytest.fixture
def method() -> ClassWeights:
    found = built(ClassWeights)
    found.class_counts = COUNTS
    found.begin_epoch(TargetBank(torch.zeros(3, 6), LOGITS))
    return found


def weighted(given, method):
    weights = method.source_weights(given["source"].labels)
    return {**given, "source": dataclasses.replace(given["source"], weights=weights)}


def test_predictions_of_a_random_head_give_no_weights() -> None:
    found = built(ClassWeights)
    found.class_counts = COUNTS
    found.begin_epoch(TargetBank(torch.zeros(3, 6), LOGITS, trained=False))
    assert found.of_classes.tolist() == [1.0] * K


def test_weights_are_the_ratio_of_the_most_likely_class_frequencies(method) -> None:
    q = mlls(np.repeat([0, 1, 2], COUNTS), LOGITS.softmax(1).numpy())
    expected = torch.from_numpy(q / [0.25, 0.5, 0.25]).float()
    torch.testing.assert_close(method.of_classes, expected)
    assert expected[2] < 0.35  # the mean of the predictions is 0.1, which would be 0.4
    labels = torch.tensor([0, 0, 1, 2])
    torch.testing.assert_close(
        method.source_weights(labels), expected[labels] / expected[labels].mean()
    )
    assert method.forward(views(), context()) == {}


def test_predictions_are_calibrated(method) -> None:
    other = built(ClassWeights)
    other.class_counts = COUNTS
    other.begin_epoch(TargetBank(torch.zeros(3, 6), 5 * LOGITS, temperature=5.0))
    torch.testing.assert_close(other.of_classes, method.of_classes)
    other.begin_epoch(TargetBank(torch.zeros(3, 6), 5 * LOGITS))
    assert not torch.allclose(other.of_classes, method.of_classes)


@pytest.mark.parametrize("logits", [torch.zeros(1, K), torch.full((2, K), torch.nan)])
def test_weights_without_evidence(logits) -> None:
    found = built(ClassWeights)
    found.class_counts = torch.tensor([3, 0, 3])
    found.begin_epoch(TargetBank(torch.zeros(1, 6), logits))
    known = [1.0, 0.0, 1.0] if logits.isfinite().all() else [1.0] * K
    torch.testing.assert_close(found.of_classes, torch.tensor(known))
    assert found.source_weights(torch.tensor([1])).tolist() == [known[1]]


def test_weights_are_part_of_the_checkpoint(method) -> None:
    other = built(ClassWeights)
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.of_classes, method.of_classes)


@pytest.mark.parametrize("loss", [CrossEntropy, Focal])
@pytest.mark.parametrize("classes", [None, [1.0, 2.0, 3.0]])
def test_task_loss(loss, classes) -> None:
    own = {"gamma": 2.0} if loss is Focal else {}
    made = loss(num_classes=K, class_counts=None, label_smoothing=0.1, class_weights=classes, **own)
    g = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(6, K, generator=g), torch.tensor([0, 1, 2, 2, 1, 0])
    torch.testing.assert_close(made(logits, labels, torch.ones(6)), made(logits, labels))
    # A weight of 2 counts as a repeated sample, and 0 as none.
    weights = torch.tensor([2.0, 1.0, 0.0, 1.0, 1.0, 1.0])
    repeated = torch.tensor([0, 0, 1, 3, 4, 5])
    torch.testing.assert_close(
        made(logits, labels, weights), made(logits[repeated], labels[repeated])
    )


def test_discriminator(method) -> None:
    given, dann = views(), built(DANN, **ADVERSARY)
    chosen = weighted(given, method)
    out = {name: dann.domain_logits(view.features, view.logits) for name, view in given.items()}
    w = chosen["source"].weights
    expected = 0.5 * (
        (w * functional.softplus(-out["source"])).mean() + functional.softplus(out["target"]).mean()
    )
    torch.testing.assert_close(dann(chosen, context())["dann"], expected)
    torch.testing.assert_close(
        dann(given, context())["dann"], domain_loss(out["source"], out["target"])
    )


@pytest.mark.parametrize("unbiased", [False, True])
def test_mmd(method, unbiased) -> None:
    given = views()
    mmd = built(MMD, multipliers=[0.5, 2.0], unbiased=unbiased, **PENALTY)
    plain = mmd(given, context())["mmd"]
    ones = dataclasses.replace(given["source"], weights=torch.ones(5))
    torch.testing.assert_close(mmd({**given, "source": ones}, context())["mmd"], plain)
    chosen = weighted(given, method)
    from tl_lightning.methods.components.kernels import gaussian_kernel

    numbers, w = arrays(given), chosen["source"].weights.double().numpy()
    both = torch.from_numpy(np.concatenate([numbers["fs"], numbers["ft"]]))
    k = gaussian_kernel(both, (0.5, 2.0)).numpy()
    n, m, own, pairs = 5, 7, 0.0, 0.0
    for i in range(n):
        for j in range(n):
            if i != j or not unbiased:
                own, pairs = own + w[i] * w[j] * k[i, j], pairs + w[i] * w[j]
    block = k[n:, n:]
    target = (block.sum() - block.trace()) / (m * (m - 1)) if unbiased else block.mean()
    cross = sum(w[i] * k[i, n + j] for i in range(n) for j in range(m)) / (w.sum() * m)
    expected = own / pairs + target - 2 * cross
    assert mmd(chosen, context())["mmd"].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("method=[class_weights,coral]",),
            r"method=\[class_weights,coral\]: coral compares the domains without the weights of "
            r"class_weights; combine class_weights with dann, cdan, ba3us, mmd, ovanet",
        ),
        (
            ("method=[class_weights]", "label_shift=prior"),
            r"trains with the target's class frequencies, and label_shift=prior would correct for",
        ),
        (
            ("method=[class_weights]",),
            r"class_weights\] weights the samples of the source, which loss\._target_=torch\.nn",
        ),
        (
            ("method=[class_weights]", "loss.class_weights=balanced"),
            r"method=\[class_weights\] and loss\.class_weights both weight the classes; set",
        ),
        (
            ("method=[class_weights]", "data.sampling=domain_balanced"),
            r"class_weights\] does not know the class frequencies of data\.sampling=domain",
        ),
        (
            ("method=[dann]", "label_shift=prior", "data.sampling=domain_balanced"),
            r"label_shift=prior does not know the class frequencies of data\.sampling=domain_",
        ),
        (
            ("method=[class_weights,mdan]",),
            r"mdan compares the domains without the weights of class_weights",
        ),
        (
            ("method=[dann]", "rejection=method"),
            r"rejection=method needs a method that recognises unknown classes, but method=\[dann\]",
        ),
        (
            ("method=[dann]", "rejection=entropy", "data.target=null"),
            r"rejection=entropy is fitted to a target, but data\.target=null; set rejection=none",
        ),
    ],
)  # fmt: skip
def test_conflicts(overrides, message) -> None:
    model = "model=source_only" if "data.target=null" in overrides else "model=domain_adaptation"
    chosen = [one for one in overrides if model != "model=source_only" or "method" not in one]
    settings = config(model, *chosen)
    if "torch.nn" in message.replace("\\", ""):
        settings["loss"] = {"_target_": "torch.nn.CrossEntropyLoss"}
    with pytest.raises(ConfigError, match=message):
        validation.check(settings)
