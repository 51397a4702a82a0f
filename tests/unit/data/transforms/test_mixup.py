"""Mixup and CutMix: seeded per batch, with labels mixed in proportion to the pixels."""

from __future__ import annotations

import pytest
import torch

from helpers import config, same, weights
from tl_lightning.config.validation import check as validation
from tl_lightning.data.transforms.mixup import MixupCutMix
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.training import fit as training

IMAGES = torch.tensor([0, 100, 200, 250], dtype=torch.uint8).view(4, 1, 1, 1).repeat(1, 3, 8, 8)
MIXUP = ["data.mixup_alpha=0.4"]
LABELS = torch.tensor([0, 1, 2, 3])


def test_mixup_mixes_labels_in_proportion_to_pixels() -> None:
    mixed, soft_labels = MixupCutMix(1.0, 0.0, 4)(IMAGES, LABELS, 3)
    assert mixed.dtype == torch.uint8
    values = IMAGES[:, 0, 0, 0].float()
    assert torch.allclose(mixed[:, 0, 0, 0].float(), soft_labels @ values, atol=0.51)
    assert torch.allclose(soft_labels.sum(1), torch.ones(4))
    assert (soft_labels > 0).sum() > 4


def test_cutmix_mixes_labels_in_proportion_to_area() -> None:
    for seed in range(5):
        mixed, soft_labels = MixupCutMix(0.0, 1.0, 4)(IMAGES, LABELS, seed)
        for k, value in enumerate(IMAGES[:, 0, 0, 0]):
            fraction = (mixed[k, 0] == value).float().mean()
            assert fraction == pytest.approx(float(soft_labels[k, k]), abs=1e-6)


@pytest.mark.parametrize("alphas", [(0.2, 0), (0, 1), (0.2, 1.0)])
def test_mixing_depends_only_on_the_seed_and_keeps_the_global_generator(alphas) -> None:
    mixing = MixupCutMix(*alphas, 4)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, again = mixing(IMAGES, LABELS, 7), mixing(IMAGES, LABELS, 7)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    others = [mixing(IMAGES, LABELS, seed)[1] for seed in range(20)]
    assert any(not torch.equal(first[1], other) for other in others)


@pytest.mark.slow
def test_training_with_mixup_is_reproducible(tmp_path) -> None:
    for name, mix in (("plain", []), ("mixed", MIXUP), ("again", MIXUP)):
        training.fit(config("model=source_only", *mix), tmp_path / name)
    last = "checkpoints/last.ckpt"
    plain, mixed, again = (weights(tmp_path / n / last) for n in ("plain", "mixed", "again"))
    assert not same(plain, mixed)
    assert same(mixed, again)


def test_mixup_is_refused_with_a_method() -> None:
    message = (
        r"data.mixup_alpha=0.4 mixes labels, which is not supported with adaptation methods; "
        r"set data.mixup_alpha=0"
    )
    with pytest.raises(ConfigError, match=message):
        validation.check(config("model=dann", *MIXUP))


def test_only_source_batches_are_mixed(tmp_path) -> None:
    cfg = validation.check(config("model=joint_bn", *MIXUP, "data.augment=none"))
    parts = training.build(cfg, tmp_path)
    parts.trainer.strategy._lightning_module = parts.module
    parts.data.trainer = parts.trainer
    batch = {name: next(iter(loader)) for name, loader in parts.data.train_dataloader().items()}
    target = batch["target"]["inputs"].clone()
    ready = parts.data.on_after_batch_transfer(batch, 0)
    assert ready["source"]["labels"].shape == (16, 10)
    assert torch.equal(ready["target"]["inputs"], target)
    assert "labels" not in ready["target"]


@pytest.mark.parametrize(
    ("alphas", "message"),
    [
        ((-1, 0), r"data.mixup_alpha=-1 is negative; set data.mixup_alpha=0.2, or 0 for none"),
        ((0, -0.5), r"data.cutmix_alpha=-0.5 is negative"),
    ],
)
def test_negative_alpha_is_refused(alphas, message) -> None:
    with pytest.raises(DataError, match=message):
        MixupCutMix(*alphas, 4)


def test_alphas_of_zero_disable_mixing() -> None:
    assert not MixupCutMix(0.0, 0.0, 4)
