"""Batch normalisation that is folded into convolutions."""

from __future__ import annotations

import torch
from torch import nn

from tl_lightning.inference.folding import fold_batch_norm


class Own(nn.BatchNorm2d):
    """As the layers whose statistics depend on the domain."""


def ready(*layers: nn.Module) -> nn.Sequential:
    """Return a network in evaluation mode with statistics that are not those of the start."""
    net = nn.Sequential(*layers)
    for _ in range(3):
        net(3 + 2 * torch.randn(8, 3, 9, 9))
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    return net.eval()


def test_outputs_change_by_rounding_only() -> None:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
    net = ready(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), inner)
    x = torch.randn(4, 3, 9, 9)
    with torch.inference_mode():
        expected = net(x)
    assert fold_batch_norm(net) == 2
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in net.modules())
    with torch.inference_mode():
        assert torch.allclose(net(x), expected, atol=1e-5)


def test_what_is_not_certain_is_left_alone() -> None:
    shared = nn.Conv2d(3, 3, 1)
    nets = [
        ready(nn.Conv2d(3, 8, 3), Own(8)),
        ready(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.BatchNorm2d(8)),
        ready(shared, nn.BatchNorm2d(3), nn.Sequential(shared)),
        ready(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False)),
        ready(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).train(),
    ]
    assert [fold_batch_norm(net) for net in nets] == [0] * 5
    hooked = ready(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    hooked[0].register_forward_hook(lambda *_: None)
    assert fold_batch_norm(hooked) == 0
