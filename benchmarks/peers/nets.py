"""Networks, images and batches that are the same for everyone; imported in every environment."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

#: The step of DANN: images per domain, their size, classes, and different batches.
DANN = {"batch": 64, "size": 28, "classes": 10, "batches": 8}
#: The step of full fine-tuning.
FULL = {"batch": 32, "size": 224, "classes": 120, "batches": 4}
#: The pass of text fine-tuning; the network is of the size of BERT-mini (Turc et al. 2019).
TEXT = {
    "batch": 16, "batches": 4, "length": 512, "words": 8000, "layers": 4, "width": 256, "heads": 4,
}  # fmt: skip
LAMBDA, WIDTH, RATE = 0.3, 512, 1e-3
MEAN = {28: (0.5, 0.5, 0.5), 224: (0.485, 0.456, 0.406)}
STD = {28: (0.5, 0.5, 0.5), 224: (0.229, 0.224, 0.225)}


def dann_parts() -> tuple[nn.Sequential, nn.Linear, nn.Sequential]:
    """Return feature extractor, classifier and discriminator with the same weights everywhere.

    They are those of ``backbone=small_cnn head=linear model=dann``.
    """
    torch.manual_seed(0)
    blocks: list[nn.Module] = []
    channels, side = 3, DANN["size"]
    for width in (32, 64, 128):
        blocks += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
        blocks += [nn.MaxPool2d(2), nn.ReLU()]
        channels, side = width, side // 2
    flat = channels * side * side
    critic = nn.Sequential(
        nn.Linear(flat, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1)
    )
    return nn.Sequential(*blocks, nn.Flatten()), nn.Linear(flat, DANN["classes"]), critic


def resnet18() -> nn.Module:
    """Return torchvision's resnet18 with the same random weights everywhere."""
    from torchvision import models

    torch.manual_seed(0)
    return models.resnet18(num_classes=FULL["classes"])


def images(shape: dict[str, int], domains: int = 1) -> list[tuple[Tensor, Tensor]]:
    """Return batches of uint8 images and labels in memory, ``domains`` domains one by one."""
    generator = torch.Generator().manual_seed(0)
    count, size = shape["batch"] * domains, shape["size"]
    found = []
    for _ in range(shape["batches"]):
        inputs = torch.randint(
            0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8
        )
        labels = torch.randint(0, shape["classes"], (count,), generator=generator)
        if domains == 2:
            inputs[shape["batch"] :] //= 2  # the target is darker
        found.append((inputs, labels))
    return found


def normal(x: Tensor) -> Tensor:
    """Scale and normalise uint8 images, as a step does on its own device."""
    side = x.shape[-1]
    mean, std = (torch.tensor(one[side]).view(1, 3, 1, 1) for one in (MEAN, STD))
    return (x.float() / 255 - mean) / std


def cycled(batches: list, steps: int) -> Iterator:
    """Return ``steps`` batches from the first one on, as an epoch of Lightning does."""
    return (batches[k % len(batches)] for k in range(steps))


class Reverse(torch.autograd.Function):
    """Gradient reversal, as users of plain torch write it."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return -LAMBDA * gradient


def dann_loss(parts: tuple[nn.Module, ...], inputs: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of a step: both domains in one pass, source first."""
    features, classify, critic = parts
    found = features(normal(inputs))
    half = len(inputs) // 2
    domains = critic(Reverse.apply(found)).squeeze(1)
    truth = torch.cat([torch.ones(half), torch.zeros(half)])
    task = nn.functional.cross_entropy(classify(found[:half]), labels[:half])
    return task + nn.functional.binary_cross_entropy_with_logits(domains, truth)
