"""Runs on vectors: adaptation, resume, evaluation and errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import command, config, plain_config, same, stopped_at, weights
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import CheckpointError, ConfigError
from tl_lightning.evaluation import evaluate as evaluation
from tl_lightning.evaluation import load as loading
from tl_lightning.training import fit as training


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    """Write two blobs, shifted in the target, and return the settings."""
    rng = np.random.default_rng(0)
    arguments = ["data=vectors", "data.batch_size=16", "trainer.max_epochs=5", "optimizer.lr=0.02"]
    for role, shift in (("source", 0.0), ("target", 1.0)):
        y = np.arange(120) % 2
        x = rng.normal(size=(120, 6)) + 3 * y[:, None] + shift
        np.savez(tmp_path / f"{role}.npz", x=x, y=y)
        arguments.append(f"data.{role}.train={tmp_path / role}.npz")
    return arguments


def settings(arguments: list[str], *more: str) -> dict[str, Any]:
    """Return the configuration of a short run on vectors."""
    found = plain_config(*arguments, *more)
    plain = config()
    for key in ("callbacks", "report", "checkpointing", "selection"):
        found[key] = plain[key]
    found["trainer"] |= {"accelerator": "cpu", "precision": "32-true"}
    found["baselines"] = []
    return found


@pytest.mark.slow
@pytest.mark.parametrize("model", ["dann", "mmd", "source_only"])
def test_evaluated_checkpoint_reproduces_the_metrics(
    tmp_path: Path, pair: list[str], model: str
) -> None:
    report = training.fit(settings(pair, f"model={model}"), tmp_path / "run")
    assert report["metrics"]["source/test/acc"] > 0.9
    assert report["config"]["backbone"]["in_features"] == 6
    checkpoint = tmp_path / "run" / report["selection"]["checkpoint"]
    found = evaluation.evaluate(str(checkpoint), None, None)
    for name, value in found["metrics"].items():
        assert report["metrics"][name] == value, name


@pytest.mark.slow
def test_resume_within_an_epoch_equals_uninterrupted_run(
    tmp_path: Path, pair: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, interrupted = tmp_path / "whole", tmp_path / "interrupted"
    training.fit(settings(pair, "model=dann"), whole)
    with stopped_at(monkeypatch, 1, 2):
        training.fit(settings(pair, "model=dann"), interrupted)
    training.fit(settings(pair, "model=dann", "resume=auto"), interrupted)
    one, other = (weights(f / "checkpoints" / "last.ckpt") for f in (whole, interrupted))
    assert same(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["none", "standard", "l2"])
def test_other_data_use_the_preprocessing_of_the_checkpoint(
    tmp_path: Path, pair: list[str], scale: str
) -> None:
    """Feature selection and scaling are not fitted again on other data."""
    rng = np.random.default_rng(1)
    for role in ("source", "target", "other"):
        y = np.arange(120) % 2
        signal = (rng.normal(size=(120, 6)) + 3 * y[:, None]) * (rng.random((120, 6)) < 0.7)
        # In the other file the noise is non-zero more often than the signal.
        noise = rng.normal(size=(120, 6)) * (rng.random((120, 6)) < 0.5) + (role == "other")
        np.savez(tmp_path / f"{role}.npz", x=np.hstack([signal, noise]), y=y)
    chosen = [f"data.scale={scale}", "data.max_features=6"]
    report = training.fit(settings(pair, "model=source_only", *chosen), tmp_path / "run")
    checkpoint = tmp_path / "run" / report["selection"]["checkpoint"]
    assert loading.load(checkpoint).input_state["columns"] == list(range(6))
    other = settings([*pair, f"data.source.train={tmp_path / 'other.npz'}"])["data"]
    result = evaluation.evaluate(str(checkpoint), other, None)
    held_out = report["dataset"]["counts"]["target/test"]
    assert result["counts"] == {"source": 120, "target": held_out}  # all of the other file
    found = result["metrics"]
    for name in (name for name in found if name.startswith("target/test")):
        assert found[name] == report["metrics"][name], name
    assert found["target/test/acc"] > 0.8


def test_warm_start_with_another_activation_is_an_error(tmp_path: Path, pair: list[str]) -> None:
    """All weights would load, but compute something else."""
    training.fit(settings(pair, "model=source_only", "trainer.max_epochs=1"), tmp_path / "run")
    start = ["model=source_free", "method=[shot]", f"init={tmp_path / 'run'}"]
    adapted = settings(pair, *start, "backbone.activation=tanh")
    with pytest.raises(
        CheckpointError, match=r"with backbone.activation=relu, but this run has tanh"
    ):
        training.build(validation.check(adapted), tmp_path / "other")


def test_data_and_backbone_must_match(pair: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"data=vectors provides vectors, but .* expects images"):
        validation.check(settings(pair, "model=source_only", "backbone=tiny_cnn"))
    with pytest.raises(ConfigError, match=r"strongly augmented images, but data=vectors provides"):
        validation.check(settings(pair, "model=self_training"))
    with pytest.raises(ConfigError, match=r"expects vectors; set backbone=resnet18"):
        validation.check({**config(), "backbone": settings(pair)["backbone"]})


@pytest.mark.slow
def test_train_and_check_data_commands(tmp_path: Path, pair: list[str]) -> None:
    found = command("train", ["model=dann", *pair, "hydra.run.dir=run"], tmp_path)
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "run" / "report.html").is_file()
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["dataset"]["counts"]["target/train"] > 0
    checked = command("check_data", pair, tmp_path)
    assert "training can start" in checked.stdout
