"""Learning rate range test: its suggestion, and that training afterwards is not affected."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from helpers import config, same, weights
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import ConfigError, TrainingError
from tl_lightning.training import fit as training
from tl_lightning.training import lr_finder
from tl_lightning.utils import process

LAST = "checkpoints/last.ckpt"


@pytest.fixture(autouse=True)
def quiet() -> None:
    process.quiet()


@pytest.mark.slow
def test_training_equals_a_run_configured_with_the_suggested_rate(tmp_path) -> None:
    report = training.fit(config("lr_find=true"), tmp_path / "a")
    found = json.loads((tmp_path / "a" / "lr_find.json").read_text())
    assert report["config"]["optimizer"]["lr"] == found["lr"]
    assert f"optimizer.lr={found['lr']:.3g} was found by lr_find" in report["notes"]
    training.fit(config(f"optimizer.lr={found['lr']!r}"), tmp_path / "b")
    assert same(weights(tmp_path / "a" / LAST), weights(tmp_path / "b" / LAST))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_parameter_groups_keep_their_ratios(accumulate, tmp_path, monkeypatch) -> None:
    seen = []
    original = lr_finder.RangeTest.on_before_optimizer_step

    def record(self, trainer, module, optimizer):
        original(self, trainer, module, optimizer)
        seen.append({group["name"]: group["lr"] for group in optimizer.param_groups})

    monkeypatch.setattr(lr_finder.RangeTest, "on_before_optimizer_step", record)
    settings = config(
        "lr_find=true",
        "model=source_only",
        "backbone.lr_factor=0.25",
        f"trainer.accumulate_grad_batches={accumulate}",
    )
    found = lr_finder.with_found_rate(validation.check(settings), tmp_path)
    stored = json.loads((tmp_path / "lr_find.json").read_text())
    assert len(stored["rates"]) == len(stored["losses"]) == len(seen) > 20
    assert [step["head"] for step in seen] == pytest.approx(stored["rates"])
    assert [step["backbone"] for step in seen] == pytest.approx(
        [0.25 * rate for rate in stored["rates"]]
    )
    steps = np.diff(np.log(stored["rates"]))
    assert np.allclose(steps, math.log(10 / 1e-7) / 99)
    assert found.lr == stored["lr"]


def test_only_the_first_phase_is_tested(tmp_path, monkeypatch) -> None:
    trainable, progress = [], []
    original = lr_finder.RangeTest.on_before_optimizer_step

    def record(self, trainer, module, optimizer):
        original(self, trainer, module, optimizer)
        trainable.append({p.requires_grad for p in module.backbone.parameters()})
        progress.append(module.progress)

    monkeypatch.setattr(lr_finder.RangeTest, "on_before_optimizer_step", record)
    settings = config("model=source_only", "phases=head_first", "lr_find=true")
    lr_finder.with_found_rate(validation.check(settings), tmp_path)
    assert trainable
    assert all(kinds == {False} for kinds in trainable)
    # Schedules of the progress must not go through their range within the test.
    assert len(progress) <= lr_finder.STEPS
    assert max(progress) < 0.05


@pytest.mark.slow
def test_resumed_run_keeps_its_learning_rate(tmp_path, monkeypatch) -> None:
    first = training.fit(config("lr_find=true", "trainer.max_epochs=1"), tmp_path)
    monkeypatch.setattr(lr_finder, "_tested", lambda *_: pytest.fail("tested again"))
    second = training.fit(config("lr_find=true", "resume=auto"), tmp_path)
    assert second["config"]["optimizer"]["lr"] == first["config"]["optimizer"]["lr"] != 1e-3


@pytest.mark.slow
def test_seeds_with_different_suggested_rates_are_one_group(tmp_path) -> None:
    found = [training.fit(config("lr_find=true", f"seed={k}"), tmp_path / str(k)) for k in (0, 1)]
    assert found[0]["config"]["optimizer"]["lr"] != found[1]["config"]["optimizer"]["lr"]
    assert found[0]["group"] == found[1]["group"]


def test_random_state_is_restored(tmp_path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    lr_finder.with_found_rate(validation.check(config("lr_find=true")), tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_suggestion_is_the_steepest_descent_before_the_minimum() -> None:
    x = np.linspace(-7, 1, 81)
    descent = 2 - 1 / (1 + np.exp(-6 * (x + 3)))
    divergence = np.where(x > -1, 40 * (x + 1), 0)
    suggested = lr_finder.suggestion(list(10**x), list(descent + divergence))
    assert suggested == pytest.approx(1e-3, rel=0.3)
    close = 2 - 1 / (1 + np.exp(-30 * (x + 1))) + np.where(x > -0.8, 40 * (x + 0.8), 0)
    minimum = 10 ** x[int(np.argmin(close))]
    assert lr_finder.suggestion(list(10**x), list(close)) == pytest.approx(minimum / 10)


def test_loss_that_never_falls() -> None:
    rates = [10.0**k for k in range(-7, 14)]
    message = r"did not fall at any learning rate between 1e-07 and 10; set lr_find=false and opti"
    with pytest.raises(TrainingError, match=message):
        lr_finder.suggestion(rates, list(range(21)))
    with pytest.raises(TrainingError, match=r"did not fall"):
        lr_finder.suggestion([], [])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lr_find=3", r"lr_find=3 is not true or false; set lr_find="),
        ("optimizer.lr=0", r"lr_find=true needs optimizer.lr > 0 to start from, got 0.0; set opt"),
        (
            "trainer.devices=2",
            r"lr_find=true runs on one device, but trainer.devices=2 and .*; run",
        ),
    ],
)
def test_problems(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validation.check(config("lr_find=true", override))
