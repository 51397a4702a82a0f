"""Activation statistics: saturated and dead units, and no effect on training."""

from __future__ import annotations

import csv

import pytest
import torch
from torch import nn

from helpers import config, same, weights
from tl_lightning.callbacks import activation_stats as callbacks
from tl_lightning.callbacks.activation_stats import Meter, counts, share, weight_gradients
from tl_lightning.config.validation import check as validation
from tl_lightning.evaluation import load as loading
from tl_lightning.layers import Activation, activation
from tl_lightning.models import base
from tl_lightning.reporting.artifacts import read_curves
from tl_lightning.training import fit as training

STUDY = ("callbacks=study", "callbacks.activations.every_n_steps=1")


@pytest.mark.parametrize(
    ("name", "outputs", "expected"),
    [
        # |tanh| > 0.99: two of four outputs
        ("tanh", [[0.991, 0.5], [-0.991, 0.989]], 0.5),
        # within 0.01 of 0 or 1: three of four
        ("sigmoid", [[0.009, 0.991], [0.02, 0.995]], 0.75),
        # dead: the first unit is zero on all samples, the second on one only
        ("relu", [[0.0, 0.0, 1.0], [0.0, 2.0, 1.0]], 1 / 3),
        # never positive: the first unit
        ("gelu", [[-0.1, -0.1], [-0.17, 0.3]], 0.5),
        ("elu", [[-1.0, -0.5], [-0.9, -0.1]], 1.0),
    ],
)
def test_fractions_of_known_outputs(name: Activation, outputs, expected: float) -> None:
    layer, table = activation(name), torch.tensor(outputs)
    assert float(share(layer, counts(layer, table))) == pytest.approx(expected)
    by_batch = sum(counts(layer, row[None]) for row in table)
    assert float(share(layer, by_batch)) == pytest.approx(expected)


def test_channel_is_one_unit() -> None:
    maps = torch.zeros(2, 3, 4, 4)
    maps[1, 2, 3, 3] = 1.0
    assert counts(nn.ReLU(), maps).tolist() == [0.0, 0.0, 1.0]


def test_padding_is_not_counted_and_hooks_are_removed() -> None:
    layer = nn.ReLU()
    meter = Meter(nn.Sequential(layer))
    with meter.watching(torch.tensor([True, False])):
        layer(torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
    layer(torch.ones(2, 2))
    assert float(meter.shares()["0"]) == 0.5
    assert not layer._forward_hooks


def test_gradient_norms_of_weights() -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Tanh(), nn.Linear(2, 1))
    net[0].weight.grad = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    assert {name: float(norm) for name, norm in weight_gradients(net).items()} == {"0": 5.0}


@pytest.mark.slow
def test_weights_are_unaffected_and_all_layers_are_logged(tmp_path) -> None:
    params = ("head=mlp", "head.bottleneck=4", "method.dann.activation=tanh")
    training.fit(config(*params), tmp_path / "without")
    training.fit(config(*params, *STUDY), tmp_path / "with")
    states = [weights(tmp_path / n / "checkpoints" / "last.ckpt") for n in ("without", "with")]
    assert same(*states)
    curves = read_curves(tmp_path / "with" / "metrics.csv")
    logged = {name.removeprefix("activation/") for name in curves if name.startswith("activation/")}
    head = {f"task.head.{part}" for part in ("bottleneck.2", "classifier.1")}
    backbone = {"backbone.blocks.0.3", "backbone.blocks.1.3", "backbone.neck.1"}
    discriminator = {f"methods.dann.discriminator.{k}" for k in (1, 4)}
    assert {n for n in logged if n.endswith("saturated")} == {
        f"{layer}/saturated" for layer in head | backbone | discriminator
    }
    assert {"backbone.blocks.0.0/grad", "task.head.classifier.3/grad"} <= logged
    for name in logged:
        values = curves[f"activation/{name}"].value
        assert len(values) == 2, name  # one per epoch
        assert (values >= 0).all(), name


@pytest.mark.slow
def test_logged_gradient_is_the_mean_over_steps(tmp_path, monkeypatch) -> None:
    seen: list[float] = []
    original = base.TransferModule.on_before_optimizer_step

    def watch(self, optimizer):
        original(self, optimizer)
        seen.append(float(self.task.head.classifier[0].weight.grad.norm()))

    monkeypatch.setattr(base.TransferModule, "on_before_optimizer_step", watch)
    training.fit(config("model=source_only", *STUDY), tmp_path)
    logged = read_curves(tmp_path / "metrics.csv")["activation/task.head.classifier.0/grad"].value
    assert logged == pytest.approx([sum(seen[:3]) / 3, sum(seen[3:]) / 3], rel=1e-5)


@pytest.mark.slow
def test_saturation_is_measured_on_validation_images(tmp_path, monkeypatch) -> None:
    """Compare the last epoch with a computation from the stored weights, without hooks."""
    monkeypatch.setattr(callbacks, "_MARGIN", 0.3)  # nothing saturates in six steps
    cfg = config("model=source_only", "backbone.activation=tanh", *STUDY)
    training.fit(cfg, tmp_path)
    module = loading.load(tmp_path / "checkpoints" / "last.ckpt")
    data = validation.check(cfg).data.build()
    data.prepare(module.needs())
    outputs = []
    with torch.no_grad():
        for batch in data.val_dataloader()[0]:
            maps = module.backbone.blocks[0](module.normalise(batch["inputs"]))
            outputs.append(maps[batch["index"] >= 0])
    expected = float((torch.cat(outputs).abs() > 0.7).double().mean())
    assert expected > 0.05
    with (tmp_path / "metrics.csv").open() as handle:
        cells = [row["activation/backbone.blocks.0.3/saturated"] for row in csv.DictReader(handle)]
    assert float([c for c in cells if c][-1]) == pytest.approx(expected, abs=1e-6)
