"""The health callback: dead is told from confused, and lambda 0 is no fault."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers import config
from tl_lightning.callbacks.adversary_monitor import Health, HealthWarning
from tl_lightning.errors import TrainingError
from tl_lightning.methods.dann import DANN
from tl_lightning.selection.domain_distance import probe_accuracy, proxy_a_distance
from tl_lightning.training import fit as training

KNOBS = {
    "every_n_epochs": 1, "every_n_steps": 20, "samples": 200, "chance": 0.05, "separable": 0.7,
    "constant": 1e-3, "patience": 1, "stop": False, "seed": 0,
}  # fmt: skip


def test_probe_on_equal_domains_is_at_chance_and_on_distant_ones_perfect() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(1000, 5)).astype(np.float32) for _ in "ab")
    assert probe_accuracy(a, b, seed=0) == pytest.approx(0.5, abs=0.06)
    assert probe_accuracy(a, b + 8, seed=0) == 1.0
    assert proxy_a_distance(0.75) == pytest.approx(1.0)


def test_fault_words() -> None:
    health = Health(**KNOBS)
    assert "dead, not confused" in health._fault(accuracy=0.51, spread=0.1, probe=0.95)
    assert "constant" in health._fault(accuracy=0.5, spread=1e-5, probe=0.5)
    assert health._fault(accuracy=0.51, spread=0.1, probe=0.55) == ""  # confused: success
    assert health._fault(accuracy=0.9, spread=0.1, probe=0.95) == ""  # alive


def test_domains_of_one_look_are_not_told_apart_by_their_classes() -> None:
    """Splits lie class by class: the first pictures of the larger one are of fewer classes."""
    rng = np.random.default_rng(0)
    sizes, roles = {"source": 400, "target": 120}, ["source", "target"]
    found = {role: SimpleNamespace(val=range(number)) for role, number in sizes.items()}
    trainer = SimpleNamespace(
        datamodule=SimpleNamespace(found=found, roles=roles),
        sanity_checking=False, current_epoch=0, world_size=1,
    )  # fmt: skip
    seen: dict[str, float] = {}
    module = SimpleNamespace(device=torch.device("cpu"), adapters={}, log=seen.__setitem__)
    health = Health(**KNOBS)
    health.on_validation_epoch_start(trainer, module)
    for place, number in enumerate(sizes.values()):
        # Two classes one after the other, the same features in both domains.
        means = np.repeat([0.0, 9.0], number // 2)[:, None]
        features = torch.from_numpy(rng.normal(means, 1.0, (number, 4)).astype(np.float32))
        outputs = {"index": torch.arange(number), "features": features, "logits": features}
        health.on_validation_batch_end(trainer, module, outputs, None, 0, place)
    assert [len(parts[0][0]) for parts in health.kept] == [200, 120]
    health.on_validation_epoch_end(trainer, module)
    assert seen["health/probe_acc"] == pytest.approx(0.5, abs=0.1)
    assert seen["health/a_distance"] < 0.5


def dead(self, features, logits):
    return features.sum(1) * 0.0


def run(tmp_path, *overrides):
    patience = "callbacks.health.patience=1"
    return training.fit(config(patience, *overrides), tmp_path)


def test_a_dead_discriminator_is_warned_of_and_reported(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(DANN, "domain_logits", dead)
    with warnings.catch_warnings():
        warnings.simplefilter("always", HealthWarning)
        report = run(tmp_path)
    assert any("dann: the discriminator's output is constant" in w for w in report["warnings"])


def test_stop_makes_it_an_error(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(DANN, "domain_logits", dead)
    with pytest.raises(TrainingError, match=r"constant.*in 1 checks on end.*stop=false goes on"):
        run(tmp_path, "callbacks.health.stop=true")


def test_lambda_zero_is_no_fault(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(DANN, "domain_logits", dead)
    report = run(tmp_path, "adapter.dann.max_lambda=0", "callbacks.health.stop=true")
    assert not report["warnings"]


def test_what_is_logged(tmp_path) -> None:
    run(tmp_path, "callbacks.health.patience=100", "trainer.log_every_n_steps=1")
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0].split(",")
    for name in ("health/probe_acc", "health/a_distance", "health/dann_domain_acc",
                 "health/dann_spread", "health/grad_backbone", "health/grad_dann",
                 "dann/lambda", "dann/domain_acc", "train/dann", "train/task"):  # fmt: skip
        assert name in header


def test_counts_survive_a_checkpoint() -> None:
    a, b = Health(**KNOBS), Health(**KNOBS)
    a.bad["dann"] = 2
    b.load_state_dict(a.state_dict())
    assert b.bad == {"dann": 2}
    assert not torch.is_grad_enabled() or b.warned == set()
