"""The train step of timm with the defaults of its train.py: float32, SGD with momentum."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from benchmarks.peers import nets
from benchmarks.peers.contestants.torch_loop import head_only, train
from benchmarks.peers.turns import Turns
from timm.data import create_dataset, create_transform, resolve_data_config
from timm.optim import create_optimizer_v2


def full(turns: Turns) -> None:
    net = timm.create_model("resnet18", num_classes=nets.FULL["classes"])
    net.load_state_dict(nets.resnet18().state_dict())  # the same names
    optimizer = create_optimizer_v2(net, opt="sgd", lr=0.05, momentum=0.9, weight_decay=2e-5)
    train(turns, net, optimizer)


def frozen(turns: Turns, folder: str) -> None:
    """The network is torchvision's: weights of timm's own could not be had without its hub."""
    from torchvision import models

    net = models.mobilenet_v2(weights="IMAGENET1K_V1")
    net.classifier = torch.nn.Identity()
    view = create_transform(**resolve_data_config({"input_size": (3, 224, 224)}))
    data = create_dataset("", root=Path(folder), transform=view)
    loader = torch.utils.data.DataLoader(data, batch_size=32, shuffle=True, drop_last=True)
    head_only(turns, net, torch.nn.Linear(1280, len(data.reader.class_to_idx)), loader)
