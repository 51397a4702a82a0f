"""The adversary monitor: distinguishes a dead discriminator from a confused one."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers import config
from tl_lightning.callbacks.adversary_monitor import AdversaryMonitor, AdversaryWarning
from tl_lightning.errors import TrainingError
from tl_lightning.evaluation.load import load
from tl_lightning.methods.dann import DANN
from tl_lightning.selection.domain_distance import probe_accuracy, proxy_a_distance
from tl_lightning.training import fit as training

PARAMS = {
    "every_n_epochs": 1, "every_n_steps": 20, "samples": 200, "chance": 0.05, "separable": 0.7,
    "constant": 1e-3, "patience": 1, "stop": False, "seed": 0,
}  # fmt: skip


def test_probe_is_at_chance_on_equal_domains_and_perfect_on_distant_ones() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(1000, 5)).astype(np.float32) for _ in "ab")
    assert probe_accuracy(a, b, seed=0) == pytest.approx(0.5, abs=0.06)
    assert probe_accuracy(a, b + 8, seed=0) == 1.0
    assert proxy_a_distance(0.75) == pytest.approx(1.0)


def test_detected_problems() -> None:
    monitor = AdversaryMonitor(**PARAMS)
    assert "dead, not confused" in monitor._problem(accuracy=0.51, spread=0.1, probe=0.95)
    assert "constant" in monitor._problem(accuracy=0.5, spread=1e-5, probe=0.5)
    assert monitor._problem(accuracy=0.51, spread=0.1, probe=0.55) == ""  # confused: success
    assert monitor._problem(accuracy=0.9, spread=0.1, probe=0.95) == ""  # alive


def test_probe_does_not_separate_domains_by_their_classes() -> None:
    """Splits are ordered by class: the first images of the larger one are of fewer classes."""
    rng = np.random.default_rng(0)
    sizes = {"source": 400, "target": 120}
    found = {domain: SimpleNamespace(val=range(number)) for domain, number in sizes.items()}
    trainer = SimpleNamespace(
        datamodule=SimpleNamespace(found=found, validated=list(sizes)),
        sanity_checking=False, current_epoch=0, world_size=1,
    )  # fmt: skip
    logged: dict[str, float] = {}
    module = SimpleNamespace(device=torch.device("cpu"), methods={}, log=logged.__setitem__)
    monitor = AdversaryMonitor(**PARAMS)
    monitor.on_validation_epoch_start(trainer, module)
    for loader, number in enumerate(sizes.values()):
        # Two classes, one after the other, with the same features in both domains.
        means = np.repeat([0.0, 9.0], number // 2)[:, None]
        features = torch.from_numpy(rng.normal(means, 1.0, (number, 4)).astype(np.float32))
        outputs = {"index": torch.arange(number), "features": features, "logits": features}
        monitor.on_validation_batch_end(trainer, module, outputs, None, 0, loader)
    assert [len(parts[0][0]) for parts in monitor.kept] == [200, 120]
    monitor.on_validation_epoch_end(trainer, module)
    assert logged["health/probe_acc"] == pytest.approx(0.5, abs=0.1)
    assert logged["health/a_distance"] < 0.5


def dead(self, features, logits):
    return features.sum(1) * 0.0


def run(tmp_path, *overrides):
    patience = "callbacks.adversary_monitor.patience=1"
    return training.fit(config(patience, *overrides), tmp_path)


@pytest.mark.slow
def test_dead_discriminator_causes_a_warning_in_the_report(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(DANN, "domain_logits", dead)
    with warnings.catch_warnings():
        warnings.simplefilter("always", AdversaryWarning)
        report = run(tmp_path)
    assert any("dann: the discriminator's output is constant" in w for w in report["warnings"])


def test_stop_raises_an_error(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(DANN, "domain_logits", dead)
    with pytest.raises(
        TrainingError, match=r"constant.*in 1 consecutive check.*stop=false to warn"
    ):
        run(tmp_path, "callbacks.adversary_monitor.stop=true")


@pytest.mark.slow
def test_no_warning_while_lambda_is_zero(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(DANN, "domain_logits", dead)
    report = run(tmp_path, "method.dann.max_lambda=0", "callbacks.adversary_monitor.stop=true")
    assert not report["warnings"]


@pytest.mark.slow
def test_lambda_is_that_of_the_last_step_also_after_resuming(tmp_path, monkeypatch) -> None:
    """The position in the run is part of the checkpoint: a ramp may count steps."""
    seen = []
    original = DANN.strength

    def watch(self, ctx):
        seen.append((ctx.progress, ctx.step))
        return original(self, ctx)

    monkeypatch.setattr(DANN, "strength", watch)
    run(tmp_path, "callbacks.adversary_monitor.patience=100")
    assert seen[-1] == (pytest.approx(5 / 6), 5)
    path = tmp_path / "checkpoints" / "last.ckpt"
    module, state = load(path), torch.load(path, weights_only=True)
    module.on_load_checkpoint(state)
    assert (module.progress, module.batches) == seen[-1]


@pytest.mark.slow
def test_logged_metrics(tmp_path) -> None:
    run(tmp_path, "callbacks.adversary_monitor.patience=100", "trainer.log_every_n_steps=1")
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0].split(",")
    for name in ("health/probe_acc", "health/a_distance", "health/dann_domain_acc",
                 "health/dann_spread", "health/grad_backbone", "health/grad_dann",
                 "dann/lambda", "dann/domain_acc", "train/dann", "train/task"):  # fmt: skip
        assert name in header


def test_counts_are_restored_from_checkpoint() -> None:
    a, b = AdversaryMonitor(**PARAMS), AdversaryMonitor(**PARAMS)
    a.bad["dann"] = 2
    b.load_state_dict(a.state_dict())
    assert b.bad == {"dann": 2}
    assert not torch.is_grad_enabled() or b.warned == set()
