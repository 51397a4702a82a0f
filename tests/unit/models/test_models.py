"""Models: feature extraction, fine-tuning and domain adaptation."""

from __future__ import annotations

import pytest
import torch

from helpers import config, same, weights
from tl_lightning.config.validation import check as validation
from tl_lightning.models import base
from tl_lightning.models.optimization import total_batches
from tl_lightning.training import build as building
from tl_lightning.training import fit as training
from tl_lightning.types import SplitKey


def net(*overrides: str) -> base.TransferModule:
    return building.build_module(validation.check(config(*overrides)), tuple("0123456789"))


def images(seed: int, n: int = 8) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, 16, 16), generator=g, dtype=torch.uint8)


def test_feature_extraction_freezes_the_backbone(tmp_path) -> None:
    """No change of weights or buffers, no optimizer state, same features in train and eval mode."""
    cfg = config("model=feature_extraction", "backbone.channel_dropout=0.5")
    before = building.build_module(validation.check(cfg), tuple("0123456789")).state_dict()
    before = {k: v.clone() for k, v in before.items()}
    report = training.fit(cfg, tmp_path)
    stored = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    after = stored["state_dict"]
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed
    assert all(k.startswith("task.") for k in changed), changed
    groups = stored["optimizer_states"][0]["param_groups"]
    assert [g["name"] for g in groups] == ["head"]
    model = net("model=feature_extraction", "backbone.channel_dropout=0.5")
    head = sum(p.numel() for p in model.task.parameters())
    total = head + sum(p.numel() for p in model.backbone.parameters())
    assert report["parameters"] == {"all": total, "learning": head}
    x = images(0)
    features = [model.train(mode).extract(x) for mode in (True, False, True)]
    assert torch.equal(features[0], features[1])
    assert torch.equal(features[0], features[2])
    assert not features[0].requires_grad


def test_fine_tuning_trains_all_parameters(tmp_path) -> None:
    cfg = config("model=fine_tuning")
    before = {k: v.clone() for k, v in net("model=fine_tuning").named_parameters()}
    training.fit(cfg, tmp_path)
    after = weights(tmp_path / "checkpoints" / "last.ckpt")
    assert all(not torch.equal(value, after[name]) for name, value in before.items())


def test_batch_norm_uses_both_domains_only_in_joint_batches() -> None:
    batch = {
        "source": {"inputs": images(0), "labels": torch.arange(8), "index": torch.arange(8)},
        "target": {"inputs": 255 - images(1) // 8, "index": torch.arange(8)},
    }
    features = {}
    for forward in ("joint", "separate"):
        model = net(f"model.forward={forward}").train()
        features[forward] = model.views(batch)["source"].features
    alone = net("model=source_only").train()
    plain = alone.task(alone.extract(batch["source"]["inputs"]))[0]
    assert torch.allclose(features["separate"], plain, atol=1e-6)
    assert not torch.allclose(features["joint"], plain, atol=1e-3)


def test_the_backbone_has_its_own_learning_rate_factor() -> None:
    groups = net("backbone.lr_factor=0.1").parameter_groups()
    assert {name: factor for name, (_, factor) in groups.items()} == {
        "backbone": 0.1, "head": 1.0, "dann": 1.0,
    }  # fmt: skip


def test_images_are_normalised_with_the_backbone_mean_and_std() -> None:
    model = net("backbone.mean=[0,0,0]", "backbone.std=[0.5,0.5,0.5]")
    white = torch.full((1, 3, 16, 16), 255, dtype=torch.uint8)
    assert torch.equal(model.normalise(white), torch.full((1, 3, 16, 16), 2.0))


def test_discriminator_size_does_not_change_other_initial_weights() -> None:
    a, b = (net(f"method.dann.width={w}").state_dict() for w in (8, 64))
    keep = lambda s: {k: v for k, v in s.items() if not k.startswith("methods.")}  # noqa: E731
    assert same(keep(a), keep(b))


@pytest.mark.slow
def test_target_validation_labels_are_used_only_for_oracle_selection(tmp_path) -> None:
    training.fit(config("selection=oracle", "trainer.max_epochs=1"), tmp_path / "o")
    training.fit(config("selection=im", "trainer.max_epochs=1"), tmp_path / "i")
    header = [(tmp_path / n / "metrics.csv").read_text().splitlines()[0] for n in ("o", "i")]
    assert "target/val/acc" in header[0]
    assert "target/val/acc" not in header[1]


@pytest.mark.slow
def test_progress_is_the_completed_fraction_of_the_run(tmp_path) -> None:
    progress = []
    original = base.TransferModule.on_train_batch_start

    def watch(self, batch, batch_idx):
        original(self, batch, batch_idx)
        progress.append(self.progress)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base.TransferModule, "on_train_batch_start", watch)
        training.fit(config(), tmp_path)
    assert progress == pytest.approx([k / 6 for k in range(6)])


class Trainer:
    """A trainer with the attributes that determine the progress of the run."""

    def __init__(self, epochs: int | None, steps: int, accumulate: int) -> None:
        self.max_epochs, self.max_steps, self.accumulate_grad_batches = epochs, steps, accumulate
        self.num_training_batches = 5


@pytest.mark.parametrize(
    ("epochs", "steps", "accumulate", "batches"),
    [
        (2, -1, 1, 10), (2, 7, 1, 7), (2, 70, 1, 10), (-1, 7, 1, 7), (None, 7, 1, 7),
        # Two batches per step, but the fifth batch steps alone: three steps per epoch.
        (-1, 3, 2, 5), (-1, 4, 2, 7), (9, 7, 2, 12),
    ],
)  # fmt: skip
def test_batches_of_a_run_limited_by_steps(epochs, steps, accumulate, batches) -> None:
    """A wrong number would make ramps over the progress, such as DANN's lambda, negative."""
    model = net()
    model._trainer = Trainer(epochs, steps, accumulate)  # type: ignore[assignment]
    assert total_batches(model) == batches


@pytest.mark.slow
def test_progress_of_a_run_limited_by_steps(tmp_path, monkeypatch) -> None:
    progress = []
    original = base.TransferModule.on_train_batch_start

    def watch(self, batch, batch_idx) -> None:
        original(self, batch, batch_idx)
        progress.append(self.progress)

    monkeypatch.setattr(base.TransferModule, "on_train_batch_start", watch)
    training.fit(config("trainer.max_epochs=-1", "trainer.max_steps=4"), tmp_path)
    assert progress == [0.0, 0.25, 0.5, 0.75]


def test_a_rank_with_only_padding_samples_logs_metrics() -> None:
    """Otherwise the other ranks would wait forever, for example with 1 image on two ranks."""
    model, logged = net(), {}
    model.log_dict = logged.update  # type: ignore[method-assign,assignment]
    padding = {"inputs": images(0, 2), "index": torch.tensor([-1, -1]),
               "labels": torch.tensor([0, 0])}  # fmt: skip
    model._evaluate(padding, SplitKey("source", "val"))
    model.on_validation_epoch_end()
    assert "source/val/acc" in logged
    logged.clear()
    model.on_validation_epoch_end()
    assert not logged
    unlabelled = {k: v for k, v in padding.items() if k != "labels"}
    model._evaluate(unlabelled, SplitKey("target", "val"))
    model.on_validation_epoch_end()
    assert "target/val/im" in logged
