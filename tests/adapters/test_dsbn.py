"""DSBN: statistics, scale and shift of its own for each domain."""

from __future__ import annotations

import torch
from torch import nn

from helpers import config
from tl_lightning import pipeline
from tl_lightning.adapters.shared.batch_norm import DomainBatchNorm, attend


def test_each_domain_learns_its_own_scale() -> None:
    norm = DomainBatchNorm(nn.BatchNorm1d(3), own_affine=True).train()
    attend([norm], [("source", 6), ("target", 4)])
    norm(torch.randn(10, 3))[:6].square().sum().backward()
    assert norm.source.weight.grad.abs().sum() > 0
    assert norm.target.weight.grad.abs().sum() == 0
    attend([norm], [("target", 4)])
    norm(torch.randn(4, 3)).square().sum().backward()
    assert norm.target.weight.grad.abs().sum() > 0


def test_both_start_from_the_pretrained_layer() -> None:
    torch.manual_seed(0)
    plain = nn.BatchNorm1d(3)
    nn.init.uniform_(plain.weight)
    plain.running_mean.uniform_()
    norm = DomainBatchNorm(plain, own_affine=True)
    for key, value in norm.source.state_dict().items():
        assert torch.equal(value, norm.target.state_dict()[key])
    assert norm.target.weight is not norm.source.weight


def test_beside_a_method_the_domains_part(tmp_path) -> None:
    arguments = ["model=domain_adaptation", "adapter=[dsbn,self_training]"]
    pipeline.fit(config(*arguments, "adapter.self_training.threshold=0"), tmp_path)
    net = pipeline.load(tmp_path / "checkpoints" / "last.ckpt")
    assert net.norms
    for norm in net.norms:
        assert not torch.equal(norm.source.running_mean, norm.target.running_mean)
    assert any(not torch.equal(norm.source.weight, norm.target.weight) for norm in net.norms)
