"""TENT: entropy minimisation that trains only scales and shifts."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import entropy

from helpers import config, weights
from methods import PENALTY, arrays, built, context, gradients, views
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import ConfigError
from tl_lightning.methods.components.domain_norm import DomainBatchNorm
from tl_lightning.methods.components.norm_layers import scales_and_shifts, target_norms
from tl_lightning.methods.tent import TENT
from tl_lightning.training import build as building
from tl_lightning.training import fit as training


def test_value() -> None:
    given = views()
    terms = built(TENT, **PENALTY)(given, context())
    assert terms["tent"].item() == pytest.approx(
        entropy(arrays(given)["pt"], axis=1).mean(), rel=1e-5
    )
    z = given["target"].logits
    updated = z - gradients(terms, z)[0]
    assert torch.special.entr(updated.softmax(1)).sum(1).mean() < terms["tent"]


@pytest.mark.slow
def test_only_scales_and_shifts_change(tmp_path) -> None:
    training.fit(config("model=source_only"), tmp_path / "first")
    settings = config("model=source_free", "method=[tent]", f"init={tmp_path / 'first'}")
    training.fit(settings, tmp_path / "tent")
    before, after = (weights(tmp_path / n / "checkpoints" / "last.ckpt") for n in ("first", "tent"))
    norms = {key.rpartition(".")[0] for key in before if key.endswith("running_mean")}
    for key, value in before.items():
        owner = key.rpartition(".")[0]
        assert torch.equal(value, after[key]) is (owner not in norms), key


def test_error_without_batch_norm(tmp_path) -> None:
    training.fit(config("model=source_only", "backbone.norm=false"), tmp_path)
    settings = config(
        "model=source_free", "method=[tent]", f"init={tmp_path}", "backbone.norm=false"
    )
    message = r"method=\[tent\] trains the scales and shifts of norm.*have none; set method"
    with pytest.raises(ConfigError, match=message):
        building.build_module(validation.check(settings), tuple(map(str, range(10))))


def test_layers_of_the_source_alone_are_not_adapted() -> None:
    norm = DomainBatchNorm(torch.nn.BatchNorm1d(4), own_affine=True)
    other = torch.nn.LayerNorm(4)
    found = target_norms(torch.nn.Sequential(norm, other))
    assert found == [norm.target, other]
    assert len(scales_and_shifts([*found, other])) == 4
