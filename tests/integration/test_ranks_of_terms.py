"""Regularisers, losses, averages and adapters of two ranks are those of one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conftest import TINY
from helpers import command, same, weights

TERMS = [
    "callbacks=ema", "callbacks.average.decay=0.5", "callbacks.health.patience=100", "loss=focal",
    "regularizer=[l1,l2,l2_sp]", "regularizer.l2_sp.alpha=5", "backbone.norm=false",
    "optimizer=sgd", "optimizer.lr=0.05", "bracket=[]",
]  # fmt: skip

#: Stages in turns (manual optimisation), and a statistic of the batch of all ranks.
ADAPTERS = [
    "model=domain_adaptation", "adapter=[mcd,mmd]", "adapter.mmd.gather=true",
    "adapter.mmd.ramp=none", "backbone.norm=false", "optimizer=sgd", "optimizer.lr=0.05",
    "bracket=[]",
]  # fmt: skip


def both(tmp_path, terms: list[str]) -> list[Path]:
    """Train on two ranks and on one; return the checkpoints."""
    ranks = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "data.batch_size=8"]
    for name, arguments in (("two", [*TINY, *ranks]), ("one", TINY)):
        done = command("train", [*arguments, *terms, f"hydra.run.dir={name}"], tmp_path)
        assert done.returncode == 0, done.stderr
    return [tmp_path / name / "checkpoints" / "last.ckpt" for name in ("two", "one")]


@pytest.mark.slow
def test_adapters_of_two_ranks_equal_one_rank_with_the_doubled_batch(tmp_path) -> None:
    two, one = (weights(place) for place in both(tmp_path, ADAPTERS))
    for name, value in one.items():
        assert torch.allclose(value, two[name], atol=1e-6), name


@pytest.mark.slow
def test_two_ranks_equal_one_rank_with_the_doubled_batch(tmp_path) -> None:
    places = both(tmp_path, TERMS)
    for key in ("state_dict", "current_model_state"):
        two, one = (torch.load(place, weights_only=True)[key] for place in places)
        for name, value in one.items():
            assert torch.allclose(value, two[name], atol=1e-6), name
    assert not same(one, weights(places[1]))
