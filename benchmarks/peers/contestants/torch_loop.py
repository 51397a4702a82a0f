"""A typical training loop in plain torch: float32, Adam."""

from __future__ import annotations

from pathlib import Path

import torch
from benchmarks.peers import nets
from benchmarks.peers.turns import Turns
from torch import nn


def dann(turns: Turns) -> None:
    parts = nets.dann_parts()
    batches = nets.images(nets.DANN, domains=2)
    weights = [weight for part in parts for weight in part.parameters()]
    optimizer = torch.optim.Adam(weights, lr=nets.RATE)
    while True:
        turns.wait()
        for inputs, labels in nets.cycled(batches, turns.steps):
            optimizer.zero_grad()
            loss = nets.dann_loss(parts, inputs, labels)
            loss.backward()
            optimizer.step()
        turns.done(loss.item())


def full(turns: Turns) -> None:
    net = nets.resnet18()
    train(turns, net, torch.optim.Adam(net.parameters(), lr=nets.RATE))


def train(turns: Turns, net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    batches = nets.images(nets.FULL)
    net.train()
    while True:
        turns.wait()
        for inputs, labels in nets.cycled(batches, turns.steps):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(nets.normal(inputs)), labels)
            loss.backward()
            optimizer.step()
        turns.done(loss.item())


def frozen(turns: Turns, folder: str) -> None:
    from torch.utils.data import DataLoader
    from torchvision import models, transforms
    from torchvision.datasets import ImageFolder

    net = models.mobilenet_v2(weights="IMAGENET1K_V1")
    net.classifier = nn.Identity()
    view = transforms.Compose([
        transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(),
        transforms.Normalize(nets.MEAN[224], nets.STD[224]),
    ])  # fmt: skip
    data = ImageFolder(Path(folder), view)
    loader = DataLoader(data, batch_size=32, shuffle=True, drop_last=True)
    head_only(turns, net, nn.Linear(1280, len(data.classes)), loader)


def head_only(turns: Turns, net: nn.Module, head: nn.Module, loader) -> None:
    """Train a head on a frozen network that every image passes in every epoch."""
    net.eval().requires_grad_(False)
    optimizer = torch.optim.Adam(head.parameters(), lr=nets.RATE)
    found = iter(loader)
    while True:
        turns.wait()
        for _ in range(turns.steps):
            try:
                inputs, labels = next(found)
            except StopIteration:
                found = iter(loader)
                inputs, labels = next(found)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(head(net(inputs)), labels)
            loss.backward()
            optimizer.step()
        turns.done(loss.item())
