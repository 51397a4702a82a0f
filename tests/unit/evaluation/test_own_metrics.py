"""Metrics of the user in ``evaluate``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import top_k_accuracy_score
from torchmetrics.classification import MulticlassCalibrationError, MulticlassMatthewsCorrCoef

import tl_lightning as tl
from tl_lightning.cli import evaluate as commands
from tl_lightning.errors import ConfigError
from tl_lightning.evaluation.nodes import metric_nodes
from tl_lightning.evaluation.outputs import Outputs
from tl_lightning.evaluation.own_metrics import built_metrics, own_scores

MODULE = '''
import torch

def within(logits, labels, k=2):
    """Return the share of samples whose class is among the k likeliest."""
    return (logits.topk(k).indices == labels[:, None]).any(1).float().mean()

class Cost:
    """Mean cost of the predictions."""

    def __init__(self, price=1.0):
        if price < 0:
            raise ValueError("a price >= 0, please")
        self.price = price

    def __call__(self, logits, labels):
        return self.price * (logits.argmax(1) != labels).float().mean().item()
'''


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """Provide the module ``own_metrics_of_mine``."""
    (tmp_path / "own_metrics_of_mine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture
def outputs() -> Outputs:
    logits = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    return Outputs(np.arange(40), logits, np.arange(40) % 4, [f"{k}.png" for k in range(40)])


def tensors(outputs: Outputs) -> tuple[torch.Tensor, torch.Tensor]:
    assert outputs.labels is not None
    return torch.from_numpy(outputs.logits), torch.from_numpy(outputs.labels)


@pytest.mark.slow
def test_classes_and_functions_from_the_command_line(trained, own, capsys) -> None:
    arguments = [
        f"checkpoint={trained}", "allow=[own_metrics_of_mine,torch.nn.functional.cross_entropy]",
        "+metrics.mcc._target_=torchmetrics.classification.MulticlassMatthewsCorrCoef",
        "+metrics.nll._target_=torch.nn.functional.cross_entropy",
        "+metrics.three._target_=own_metrics_of_mine.within", "+metrics.three.k=3",
        "+metrics.cost._target_=own_metrics_of_mine.Cost", "metrics.cost.price=20.0",
    ]  # fmt: skip
    commands._evaluate(arguments)
    text = capsys.readouterr().out
    allow = ["own_metrics_of_mine", "torch.nn.functional.cross_entropy"]
    found = tl.evaluate(trained, allow=allow, metrics=metric_nodes(arguments))
    for domain, part in found["domains"].items():
        logits, labels = (
            torch.from_numpy(getattr(found["outputs"][domain], name))
            for name in ("logits", "labels")
        )
        expected = {
            "mcc": MulticlassMatthewsCorrCoef(10)(logits, labels),
            "nll": torch.nn.functional.cross_entropy(logits, labels),
            "three": top_k_accuracy_score(labels, logits, k=3),
            "cost": 20 * (1 - found["metrics"][f"{domain}/test/acc"]),
        }
        for name, value in expected.items():
            assert part["scores"][name]["value"] == pytest.approx(float(value), abs=1e-5)
            assert f"{part['scores'][name]['value']:.4g}" in text


@pytest.mark.slow
def test_objects_are_metrics_in_python(trained) -> None:
    metrics = {"ece": MulticlassCalibrationError(10), "n": lambda logits, labels: len(labels)}
    found = tl.evaluate(trained, metrics=metrics)
    for domain, part in found["domains"].items():
        assert part["scores"]["n"]["value"] == found["counts"][domain]
        metric = MulticlassCalibrationError(10)  # new: nothing of the other domain is left
        expected = float(metric(*tensors(found["outputs"][domain])))
        assert part["scores"]["ece"]["value"] == pytest.approx(expected)


def built(node: dict[str, Any], *allow: str) -> Any:
    return built_metrics({"mine": node}, allow, 4)["mine"]


def test_what_is_not_allowed_is_not_called(own, tmp_path) -> None:
    (tmp_path / "evil_metric_module.py").write_text("open('touched', 'w')\ndef f(a, b): return 1")
    problem = r"is outside the allowed packages .*; set allow=\[evil"
    for target in ("evil_metric_module.f", "evil_metric_module.F"):
        with pytest.raises(ConfigError, match=problem):
            built({"_target_": target})
    with pytest.raises(ConfigError, match=r"torch.save is a function, and functions are only"):
        built({"_target_": "torch.save"})
    assert not Path("touched").exists()
    node = {"_target_": "own_metrics_of_mine.within"}
    assert built(node, "own_metrics_of_mine.within")(torch.eye(4), torch.arange(4)) == 1


def test_settings_that_do_not_fit_are_reported(own) -> None:
    allow = "own_metrics_of_mine"
    with pytest.raises(ConfigError, match=r"metrics.mine: .* cannot be called with logits and lab"):
        built({"_target_": "own_metrics_of_mine.within", "z": 1}, allow)
    with pytest.raises(ConfigError, match=r"metrics.mine.prize is not a setting of Cost; did you"):
        built({"_target_": "own_metrics_of_mine.Cost", "prize": 1}, allow)
    with pytest.raises(ConfigError, match=r"metrics.mine cannot be built: ValueError: a price >"):
        built({"_target_": "own_metrics_of_mine.Cost", "price": -1}, allow)
    with pytest.raises(ConfigError, match=r"metrics.mine._target_=own_metrics_of_mine.Nothing"):
        built({"_target_": "own_metrics_of_mine.Nothing"}, allow)
    with pytest.raises(ConfigError, match=r"metrics.mine=5 is neither a metric nor a function"):
        built_metrics({"mine": 5}, (), 4)
    with pytest.raises(
        ConfigError, match=r"metrics.kappa is computed already \(accuracy, .*use an"
    ):
        built_metrics({"kappa": len}, (), 4)
    with pytest.raises(ConfigError, match=r"metrics is not a setting; set \+metrics.<name>._tar"):
        metric_nodes(["metrics=kappa"])
    with pytest.raises(ConfigError, match=r"metrics.a.b=\[1 cannot be read"):
        metric_nodes(["+metrics.a.b=[1"])


def test_a_metric_that_fails_is_named(outputs) -> None:
    def fails(logits: Any, labels: Any) -> None:
        raise ZeroDivisionError("no samples")

    with pytest.raises(
        ConfigError, match=r"metrics.a failed on logits \(40, 4\) and lab.* no samples"
    ):
        own_scores({"a": fails}, outputs)
    with pytest.raises(ConfigError, match=r"must return one number, got an array of shape \(40"):
        own_scores({"a": lambda logits, labels: logits}, outputs)
    with pytest.raises(ConfigError, match=r"must return one number, got NoneType; average it"):
        own_scores({"a": lambda logits, labels: None}, outputs)
    assert math.isnan(own_scores({"a": lambda logits, labels: float("nan")}, outputs)["a"])


def test_an_option_of_another_group_with_a_plus_is_an_error(trained) -> None:
    with pytest.raises(ConfigError, match=r"\+data.root is not an option; "):
        commands._evaluate([f"checkpoint={trained}", "+data.root=x"])
