"""Mixup and CutMix: from the batch's seed alone, labels in the shares of the pictures."""

from __future__ import annotations

import pytest
import torch

from helpers import config, same, weights
from tl_lightning.config.validation import check as validation
from tl_lightning.data.transforms.mixup import Mixing
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.training import fit as training

PICTURES = torch.tensor([0, 100, 200, 250], dtype=torch.uint8).view(4, 1, 1, 1).repeat(1, 3, 8, 8)
MIXUP = ["data.mix.mixup=0.4"]
LABELS = torch.tensor([0, 1, 2, 3])


def test_mixup_shares_labels_as_it_shares_pixels() -> None:
    mixed, shares = Mixing({"mixup": 1.0}, 4)(PICTURES, LABELS, 3)
    assert mixed.dtype == torch.uint8
    values = PICTURES[:, 0, 0, 0].float()
    assert torch.allclose(mixed[:, 0, 0, 0].float(), shares @ values, atol=0.51)
    assert torch.allclose(shares.sum(1), torch.ones(4))
    assert (shares > 0).sum() > 4


def test_cutmix_shares_labels_by_area() -> None:
    for seed in range(5):
        mixed, shares = Mixing({"cutmix": 1.0}, 4)(PICTURES, LABELS, seed)
        for k, value in enumerate(PICTURES[:, 0, 0, 0]):
            own = (mixed[k, 0] == value).float().mean()
            assert own == pytest.approx(float(shares[k, k]), abs=1e-6)


@pytest.mark.parametrize("alphas", [{"mixup": 0.2}, {"cutmix": 1}, {"mixup": 0.2, "cutmix": 1.0}])
def test_the_seed_decides_and_the_generator_is_left_alone(alphas) -> None:
    mixing = Mixing(alphas, 4)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, again = mixing(PICTURES, LABELS, 7), mixing(PICTURES, LABELS, 7)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    others = [mixing(PICTURES, LABELS, seed)[1] for seed in range(20)]
    assert any(not torch.equal(first[1], other) for other in others)


def test_training_with_mixed_pictures(tmp_path) -> None:
    for name, mix in (("plain", []), ("mixed", MIXUP), ("again", MIXUP)):
        training.fit(config("model=source_only", *mix), tmp_path / name)
    last = "checkpoints/last.ckpt"
    plain, mixed, again = (weights(tmp_path / n / last) for n in ("plain", "mixed", "again"))
    assert not same(plain, mixed)
    assert same(mixed, again)


def test_adapters_take_no_mixed_labels() -> None:
    with pytest.raises(ConfigError, match=r"data.mix.mixup makes shares .* type data.mix.mixup=0"):
        validation.check(config("model=dann", *MIXUP))


def test_only_the_source_is_mixed(tmp_path) -> None:
    cfg = validation.check(config("model=joint_bn", *MIXUP, "data.augment=none"))
    parts = training.build(cfg, tmp_path)
    parts.trainer.strategy._lightning_module = parts.module
    parts.data.trainer = parts.trainer
    batch = {role: next(iter(loader)) for role, loader in parts.data.train_dataloader().items()}
    target = batch["target"]["inputs"].clone()
    ready = parts.data.on_after_batch_transfer(batch, 0)
    assert ready["source"]["labels"].shape == (16, 10)
    assert torch.equal(ready["target"]["inputs"], target)
    assert "labels" not in ready["target"]


@pytest.mark.parametrize(
    ("mix", "words"),
    [
        ({"mixpu": 0.2}, r"data.mix has no kind 'mixpu'; did you mean 'mixup'"),
        ({"mixup": -1}, r"data.mix.mixup=-1 is no number of at least 0; type data.mix.mixup=0.2"),
        ({"cutmix": "a"}, r"data.mix.cutmix=a is no number of at least 0"),
    ],
)
def test_what_cannot_be_mixed(mix, words) -> None:
    with pytest.raises(DataError, match=words):
        Mixing(mix, 4)


def test_nothing_is_mixed_by_default() -> None:
    assert not Mixing({"mixup": 0.0, "cutmix": 0}, 4)
