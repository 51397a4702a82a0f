"""The range test finds a rate, and leaves no trace in the training that follows."""

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
def calm() -> None:
    process.quiet()


def test_training_with_what_it_finds_is_training_with_that_rate(tmp_path) -> None:
    report = training.fit(config("lr_find=true"), tmp_path / "a")
    found = json.loads((tmp_path / "a" / "lr_find.json").read_text())
    assert report["config"]["optimizer"]["lr"] == found["lr"]
    assert f"optimizer.lr={found['lr']:.3g} was found by lr_find" in report["notes"]
    training.fit(config(f"optimizer.lr={found['lr']!r}"), tmp_path / "b")
    assert same(weights(tmp_path / "a" / LAST), weights(tmp_path / "b" / LAST))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_groups_keep_their_shares_while_the_rate_grows(accumulate, tmp_path, monkeypatch) -> None:
    seen = []
    honest = lr_finder.RangeTest.on_before_optimizer_step

    def note(self, trainer, module, optimizer):
        honest(self, trainer, module, optimizer)
        seen.append({group["name"]: group["lr"] for group in optimizer.param_groups})

    monkeypatch.setattr(lr_finder.RangeTest, "on_before_optimizer_step", note)
    settings = config(
        "lr_find=true",
        "model=source_only",
        "backbone.lr_factor=0.25",
        f"trainer.accumulate_grad_batches={accumulate}",
    )
    found = lr_finder.with_found_rate(validation.check(settings), tmp_path)
    told = json.loads((tmp_path / "lr_find.json").read_text())
    assert len(told["rates"]) == len(told["losses"]) == len(seen) > 20
    assert [step["head"] for step in seen] == pytest.approx(told["rates"])
    assert [step["backbone"] for step in seen] == pytest.approx(
        [0.25 * rate for rate in told["rates"]]
    )
    steps = np.diff(np.log(told["rates"]))
    assert np.allclose(steps, math.log(10 / 1e-7) / 99)
    assert found["optimizer"]["lr"] == told["lr"]


def test_the_first_phase_is_what_is_tested(tmp_path, monkeypatch) -> None:
    learning, progress = [], []
    honest = lr_finder.RangeTest.on_before_optimizer_step

    def note(self, trainer, module, optimizer):
        honest(self, trainer, module, optimizer)
        learning.append({p.requires_grad for p in module.backbone.parameters()})
        progress.append(module.progress)

    monkeypatch.setattr(lr_finder.RangeTest, "on_before_optimizer_step", note)
    settings = config("model=source_only", "phases=head_first", "lr_find=true")
    lr_finder.with_found_rate(validation.check(settings), tmp_path)
    assert learning
    assert all(kinds == {False} for kinds in learning)
    # What grows with the run's progress has not begun, as it would have in a run of these steps.
    assert len(progress) <= lr_finder.STEPS
    assert max(progress) < 0.05


def test_a_resumed_run_goes_on_with_its_rate(tmp_path, monkeypatch) -> None:
    first = training.fit(config("lr_find=true", "trainer.max_epochs=1"), tmp_path)
    monkeypatch.setattr(lr_finder, "_tested", lambda *_: pytest.fail("tested again"))
    second = training.fit(config("lr_find=true", "resume=auto"), tmp_path)
    assert second["config"]["optimizer"]["lr"] == first["config"]["optimizer"]["lr"] != 1e-3


def test_seeds_that_find_their_own_rates_are_one_group(tmp_path) -> None:
    found = [training.fit(config("lr_find=true", f"seed={k}"), tmp_path / str(k)) for k in (0, 1)]
    assert found[0]["config"]["optimizer"]["lr"] != found[1]["config"]["optimizer"]["lr"]
    assert found[0]["group"] == found[1]["group"]


def test_random_numbers_are_as_if_it_had_not_run(tmp_path) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    lr_finder.with_found_rate(validation.check(config("lr_find=true")), tmp_path)
    assert torch.equal(torch.rand(3), wanted)


def test_the_suggestion_is_the_steepest_place_before_the_least() -> None:
    x = np.linspace(-7, 1, 81)
    falls = 2 - 1 / (1 + np.exp(-6 * (x + 3)))
    breaks = np.where(x > -1, 40 * (x + 1), 0)
    assert lr_finder.suggestion(list(10**x), list(falls + breaks)) == pytest.approx(1e-3, rel=0.3)
    near = 2 - 1 / (1 + np.exp(-30 * (x + 1))) + np.where(x > -0.8, 40 * (x + 0.8), 0)
    least = 10 ** x[int(np.argmin(near))]
    assert lr_finder.suggestion(list(10**x), list(near)) == pytest.approx(least / 10)


def test_a_loss_that_never_falls_says_so() -> None:
    rates = [10.0**k for k in range(-7, 14)]
    with pytest.raises(TrainingError, match=r"no falling loss between 1e-07 and 10; type lr_find"):
        lr_finder.suggestion(rates, list(range(21)))
    with pytest.raises(TrainingError, match=r"no falling loss"):
        lr_finder.suggestion([], [])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("lr_find=3", r"lr_find=3 is neither true nor false"),
        ("optimizer.lr=0", r"lr_find=true needs optimizer.lr > 0 to start from, got 0"),
        ("trainer.devices=2", r"lr_find=true tests on one device, but trainer.devices=2 and"),
    ],
)
def test_faults(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        validation.check(config("lr_find=true", override))
