"""Experiments on the benchmarks of the literature have the settings of its published figures."""

from __future__ import annotations

import math

import pytest
import torch

from helpers import compose
from tl_lightning.config.schema import RunConfig
from tl_lightning.config.validation import check as validation
from tl_lightning.methods.cdan import CDAN
from tl_lightning.methods.dann import DANN
from tl_lightning.types import Context

#: Classes, epochs, network and augmentation of each benchmark.
BENCHMARKS = {
    "office31": (31, 20, "resnet50", "crop"),
    "office_home": (65, 30, "resnet50", "crop"),
    "visda": (12, 30, "resnet101", "flip"),
}


def checked(name: str, *overrides: str) -> RunConfig:
    return validation.check(compose([f"experiment={name}", "trainer=cpu", *overrides]))


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_settings(name: str) -> None:
    run = checked(name)
    _, epochs, network, augment = BENCHMARKS[name]
    assert run.trainer.max_epochs == epochs
    assert run.backbone.params["name"] == network
    assert run.backbone.params["tag"] == "IMAGENET1K_V1"
    assert run.backbone.params["lr_factor"] == 0.1
    head = run.nodes["head"].params
    assert (head["bottleneck"], head["bottleneck_norm"], head["width"]) == (256, "batch", None)
    data = run.data.params
    assert (data["batch_size"], data["steps_per_epoch"], data["augment"]) == (32, 1000, augment)
    assert data["transductive"] is True
    optimizer = run.optimizer.params
    expected = {"lr": 1e-2, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}
    assert {key: optimizer[key] for key in expected} == expected
    assert run.optimizer.cls is torch.optim.SGD
    assert run.model.params["forward"] == "joint"
    assert (run.selection, list(run.methods)) == ("bnm", ["dann"])
    assert run.head_init == "random"


@pytest.mark.parametrize("name", BENCHMARKS)
def test_learning_rate_is_that_schedule_by_step(name: str) -> None:
    run = checked(name)
    schedule = run.nodes["scheduler"].build()
    total = 1000 * run.trainer.max_epochs
    for step in (0, 123, 5000, total - 1):
        assert schedule(step / total) == pytest.approx((1 + 0.001 * step) ** -0.75)


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
@pytest.mark.parametrize(("method", "cls"), [("dann", DANN), ("cdan", CDAN)])
def test_adversary(name: str, method: str, cls: type[DANN | CDAN]) -> None:
    classes, epochs, *_ = BENCHMARKS[name]
    node = checked(name, f"method=[reference/{method}]").methods[method]
    built = node.build(in_features=256, num_classes=classes)
    assert isinstance(built, cls)
    layers = [type(layer).__name__ for layer in built.discriminator]
    assert layers == ["Linear", "BatchNorm1d", "ReLU", "Dropout"] * 2 + ["Linear"]
    assert [built.discriminator[k].out_features for k in (0, 4, 8)] == [1024, 1024, 1]
    assert built.discriminator[3].p == 0
    for step in (0, 123, 1000, 5000, 1000 * epochs - 1):
        ctx = Context(step / (1000 * epochs), step)
        expected = 2 / (1 + math.exp(-step / 1000)) - 1
        assert built.strength(ctx) == pytest.approx(expected, abs=1e-4)
    if isinstance(built, CDAN):
        assert not built.random  # the whole product of features and probabilities


def test_selection_of_the_literature_and_other_methods_pass_the_check() -> None:
    assert checked("office31", "selection=oracle").selection == "oracle"
    found = checked("visda", "method=[mcc]", "method.mcc.temperature=3", "optimizer.lr=2e-3")
    assert list(found.methods) == ["mcc"]
    assert found.optimizer.params["lr"] == 2e-3
