"""Maps of the predicted class: at the right place, for frozen and trained networks alike."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tl_lightning.callbacks.grad_cam import class_maps, spatial_layer


class Network(nn.Module):
    """Class 0 counts red pixels, class 1 green ones, on a grid of 4 x 4 pixels per cell."""

    def __init__(self, frozen: bool, in_place: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 4, stride=4)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.bias.zero_()
            self.conv.weight[0, 0] = self.conv.weight[1, 1] = 1.0
        self.relu = nn.ReLU(inplace=in_place)
        self.frozen = frozen
        self.requires_grad_(not frozen)

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.relu(self.conv(inputs)).mean(dim=(2, 3))


def images() -> Tensor:
    """Return a red square at the upper left, and a green one at the lower right."""
    found = torch.zeros(2, 3, 16, 16)
    found[0, 0, :4, :4] = 1.0
    found[1, 1, 12:, 12:] = 1.0
    found[1, 0, :4, 12:] = 0.5  # less red than green
    return found


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
def test_the_map_is_where_the_predicted_class_is(frozen: bool, in_place: bool) -> None:
    network = Network(frozen, in_place)

    def forward() -> tuple[Tensor, Tensor]:
        features = network(images())
        return features, 3 * features

    layer = spatial_layer(network, forward)
    assert layer in (network.conv, network.relu)
    with torch.inference_mode():  # as in a test of Lightning
        features, logits, maps = class_maps(layer, forward)
    assert logits.argmax(1).tolist() == [0, 1]
    assert torch.allclose(3 * features, logits)
    assert maps.shape == (2, 4, 4)
    for found, cell in zip(maps, [(0, 0), (3, 3)], strict=True):
        assert found[cell] == 1.0
        assert found.sum() == 1.0
    assert not any(module._forward_hooks for module in network.modules())
    assert all(weight.grad is None for weight in network.parameters())


def test_a_transformer_has_no_spatial_layer_and_a_vector_neither() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 4, stride=4)
            self.block = nn.Linear(8, 8)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.block(self.patches(inputs).flatten(2).transpose(1, 2)).mean(dim=1)

    for network in (Tokens(), nn.Sequential(nn.Flatten(), nn.Linear(768, 2))):
        run = lambda network=network: (network(images()),) * 2  # noqa: E731
        assert spatial_layer(network, run) is None


def test_a_class_that_no_cell_raises_has_an_empty_map() -> None:
    network = Network(frozen=False, in_place=False)

    def forward() -> tuple[Tensor, Tensor]:
        features = network(images())
        return features, -features

    layer = spatial_layer(network, forward)
    maps = class_maps(layer, forward)[2]
    assert maps.max() == 0
    assert torch.isfinite(maps).all()
