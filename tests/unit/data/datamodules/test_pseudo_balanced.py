"""Target batches balanced by predicted classes: ``data.target_sampling``."""

from __future__ import annotations

from collections import Counter

import lightning as L
import numpy as np
import pytest
import torch

from helpers import config, file_config, plain_config, same, stopped_at, weights
from layouts import split_folders
from tl_lightning.config.validation import check as validation
from tl_lightning.data.samplers.domain import DomainSampler
from tl_lightning.data.samplers.pseudo_balanced import PseudoBalancedSampler
from tl_lightning.errors import ConfigError
from tl_lightning.models.adaptation import DomainAdaptation
from tl_lightning.sweeps.baselines import baseline
from tl_lightning.training import build as building
from tl_lightning.training import fit as training

BALANCED = "data.target_sampling=pseudo_balanced"
#: Nine of ten samples are predicted to be of class 3; no sample is of classes 0 to 2.
PREDICTED = np.array([3] * 90 + [4] * 10)


def sampler(classes=PREDICTED, **changes) -> PseudoBalancedSampler:
    settings = {"size": 100, "batch_size": 8, "num_batches": 30, "seed": 0, "domain": 1, **changes}
    return PseudoBalancedSampler(classes=lambda epoch: classes, **settings)


def drawn(found: PseudoBalancedSampler) -> list[int]:
    return [index for index, _ in found]


def test_batches_are_even_although_predictions_are_not() -> None:
    classes = PREDICTED[drawn(sampler())].tolist()
    for start in range(0, len(classes), 8):
        assert Counter(classes[start : start + 8]) == {3: 4, 4: 4}
    uniform = PREDICTED[[i for i, _ in DomainSampler(size=100, batch_size=8, num_batches=30,
                                                     seed=0, domain=1)]]  # fmt: skip
    assert Counter(uniform.tolist())[4] < 30


def test_every_epoch_has_its_own_predictions() -> None:
    asked = []

    def classes(epoch: int):
        asked.append(epoch)
        return np.roll(PREDICTED, 50 * epoch)

    found = sampler()
    found.classes = classes
    for epoch in (0, 1, 2):
        found.set_epoch(epoch)
        assert Counter(classes(epoch)[drawn(found)].tolist()) == {3: 120, 4: 120}
    assert asked == [0, 0, 1, 1, 2, 2]


def test_order_depends_on_seed_epoch_and_predictions_only() -> None:
    first = list(sampler())
    assert list(sampler()) == first
    others = [sampler(seed=1), sampler(epoch=1), sampler(np.roll(PREDICTED, 1))]
    assert all(drawn(other) != [index for index, _ in first] for other in others)


def test_ranks_divide_the_global_order() -> None:
    single = list(sampler(batch_size=16))
    ranks = [list(sampler(rank=rank, world=2)) for rank in (0, 1)]
    assert [pair for both in zip(*ranks, strict=True) for pair in both] == single


@pytest.mark.parametrize("start", [1, 29])
def test_start_skips_batches(start: int) -> None:
    whole = list(sampler(epoch=2))
    resumed = sampler(epoch=2, start=start)
    assert list(resumed) == list(resumed) == whole[start * 8 :]
    index, seeds = resumed.arrays()  # as cached features are loaded
    assert list(zip(index.tolist(), seeds.tolist(), strict=True)) == whole[start * 8 :]


def recorded(monkeypatch) -> list[tuple[int, torch.Tensor]]:
    """Return a list that is filled with the predictions of every epoch and the epochs."""
    found = []
    original = DomainAdaptation.target_classes

    def target_classes(self, epoch: int):
        known = self.predicted
        classes = original(self, epoch)
        if self.predicted is not known:
            found.append((epoch, torch.from_numpy(classes.copy())))
        return classes

    monkeypatch.setattr(DomainAdaptation, "target_classes", target_classes)
    return found


@pytest.mark.slow
def test_a_run_predicts_once_per_epoch_with_its_current_weights(tmp_path, monkeypatch) -> None:
    predicted = recorded(monkeypatch)
    training.fit(config(BALANCED, "selection=last"), tmp_path)
    assert [epoch for epoch, _ in predicted] == [0, 1]
    run = validation.check(config(BALANCED))
    parts = building.build(run, tmp_path / "other")
    before = parts.module.eval()
    logits = [before(batch["inputs"]) for batch in parts.data.whole_loader("target")]
    assert torch.equal(predicted[0][1], torch.cat(logits).argmax(1))
    assert not torch.equal(predicted[0][1], predicted[1][1])


@pytest.mark.slow
def test_batches_of_a_run_are_even(tmp_path, monkeypatch) -> None:
    seen, predicted = [], recorded(monkeypatch)
    original = DomainAdaptation.training_step

    def training_step(self, batch, batch_idx):
        seen.append((self.current_epoch, batch["target"]["index"]))
        return original(self, batch, batch_idx)

    monkeypatch.setattr(DomainAdaptation, "training_step", training_step)
    training.fit(config(BALANCED, "data.steps_per_epoch=4"), tmp_path)
    assert len(seen) == 8
    for epoch, index in seen:
        classes = dict(predicted)[epoch]
        counts = Counter(classes[index].tolist())
        number = len(classes.unique())
        assert {counts[int(c)] for c in classes.unique()} <= {16 // number, -(-16 // number)}


def test_uniform_is_what_it_was(tmp_path) -> None:
    """The default draws with the plain sampler, and no model is asked for predictions."""
    parts = building.build(validation.check(config()), tmp_path)
    loader = parts.data.train_dataloader()["target"]
    assert type(loader.sampler) is DomainSampler
    assert not hasattr(loader.sampler, "classes")


@pytest.mark.slow
@pytest.mark.parametrize("place", [(0, 1), (0, 2), (1, 0)])
def test_run_is_resumed_exactly(place, tmp_path, monkeypatch) -> None:
    settings = [BALANCED, "data.augment=light", "method.dann.max_lambda=0.3"]
    training.fit(config(*settings), tmp_path / "whole")
    with stopped_at(monkeypatch, *place):
        training.fit(config(*settings), tmp_path / "resumed")
    with monkeypatch.context() as patched:
        predicted = recorded(patched)
        training.fit(config(*settings, "resume=auto"), tmp_path / "resumed")
    # The interrupted epoch is not predicted again, since the weights have changed by then.
    assert [epoch for epoch, _ in predicted] == [epoch for epoch in (1,) if epoch > place[0]]
    training.fit(config(*settings[1:]), tmp_path / "uniform")
    a, b, c = (
        weights(tmp_path / name / "checkpoints" / "last.ckpt")
        for name in ("whole", "resumed", "uniform")
    )
    assert same(a, b)
    assert not same(a, c)


@pytest.mark.slow
def test_workers_draw_by_the_predictions_as_well(tmp_path, monkeypatch) -> None:
    """Loader processes get the first samples of a run before its first epoch begins."""
    root = split_folders(tmp_path / "dogs", train=20, test=8)
    settings = [BALANCED, "data.num_workers=1", "cache.images=off", "data.steps_per_epoch=3"]
    predicted = recorded(monkeypatch)
    training.fit(file_config(root, *settings), tmp_path / "whole")
    assert [epoch for epoch, _ in predicted] == [0, 1]
    with stopped_at(monkeypatch, 1, 0):
        training.fit(file_config(root, *settings), tmp_path / "resumed")
    training.fit(file_config(root, *settings, "resume=auto"), tmp_path / "resumed")
    last = [tmp_path / name / "checkpoints" / "last.ckpt" for name in ("whole", "resumed")]
    assert same(*map(weights, last))


@pytest.mark.parametrize(
    "overrides",
    [["model=source_only"], ["model=source_free", "method=[mcc]", "init=/a/run"]],
)
def test_models_that_do_not_adapt_from_a_source_are_refused(overrides) -> None:
    message = r"does not adapt from a source to a target; set data\.target_sampling=uniform, or mod"
    with pytest.raises(ConfigError, match=message):
        validation.check(config(BALANCED, *overrides))


def test_other_modules_are_refused(tmp_path) -> None:
    data = building.build(validation.check(config(BALANCED)), tmp_path).data
    assert len(list(data.train_dataloader()["target"])) == 3  # without a trainer, to look at
    data.trainer = L.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    data.trainer.strategy.connect(L.LightningModule())
    with pytest.raises(
        ConfigError, match="but LightningModule is not a DomainAdaptation; set data"
    ):
        next(iter(data.train_dataloader()["target"]))


def test_streams_are_refused() -> None:
    overrides = ["model=dann", "data=stream", "data.source.url=/a", "data.target.url=/b", BALANCED]
    plain = plain_config(*overrides)
    message = r"data\.target_sampling=pseudo_balanced draws single samples by their predicted cla"
    with pytest.raises(ConfigError, match=message):
        validation.check(plain)


def test_baselines_that_do_not_train_on_both_domains_are_uniform() -> None:
    settings = config(BALANCED)
    expected = {"source_only": "uniform", "oracle": "uniform", "joint_bn": "pseudo_balanced"}
    for name, sampling in expected.items():
        run = validation.check(baseline(settings, name))
        assert run.data.params["target_sampling"] == sampling
