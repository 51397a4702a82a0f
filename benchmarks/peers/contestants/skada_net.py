"""skada: its deep DANN, a skorch net; both domains in one pass."""

from __future__ import annotations

import numpy as np
import torch
from benchmarks.peers import nets
from benchmarks.peers.turns import Turns
from skada.deep import DANN
from torch import nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features, self.classify, _ = nets.dann_parts()

    def forward(self, x: torch.Tensor, sample_weight: object = None) -> torch.Tensor:
        return self.classify(self.features(x))


def dann(turns: Turns) -> None:
    *_, critic = nets.dann_parts()
    batches = nets.images(nets.DANN, domains=2)
    half = nets.DANN["batch"]
    chosen = [batches[k % len(batches)] for k in range(turns.steps)]
    inputs = torch.cat([nets.normal(x) for x, _ in chosen]).numpy()
    labels = torch.cat([y for _, y in chosen]).numpy()
    domains = np.tile(np.repeat([1, -2], half), turns.steps)
    labels[domains < 0] = -1  # the target has no labels
    net = DANN(
        Net(), layer_name="features", reg=nets.LAMBDA,
        domain_classifier=nn.Sequential(critic, nn.Sigmoid(), nn.Flatten(0)), batch_size=half,
        optimizer=torch.optim.Adam, lr=nets.RATE, max_epochs=1, train_split=None, verbose=0,
    )  # fmt: skip
    net.initialize()
    net.warm_start = True  # a turn continues the training
    while True:
        turns.wait()
        net.fit(inputs, labels, sample_domain=domains)
        turns.done(float(net.history[-1, "train_loss"]))
