"""pytorch-adapt: its DANNHook with optimizers, each domain in a pass of its own (its default)."""

from __future__ import annotations

import torch
from benchmarks.peers import nets
from benchmarks.peers.turns import Turns
from pytorch_adapt.hooks import DANNHook
from pytorch_adapt.weighters import SumWeighter


def dann(turns: Turns) -> None:
    features, classify, critic = nets.dann_parts()
    discriminator = torch.nn.Sequential(critic, torch.nn.Flatten(0))  # logits (N,), as it expects
    models = {"G": features, "C": classify, "D": discriminator}
    optimizers = [torch.optim.Adam(net.parameters(), lr=nets.RATE) for net in models.values()]
    halves = SumWeighter(weights={"src_domain_loss": 0.5, "target_domain_loss": 0.5})
    hook = DANNHook(opts=optimizers, gradient_reversal_weight=nets.LAMBDA, weighter=halves)
    batches = nets.images(nets.DANN, domains=2)
    half = nets.DANN["batch"]
    truth = {"src_domain": torch.ones(half), "target_domain": torch.zeros(half)}
    while True:
        turns.wait()
        for inputs, labels in nets.cycled(batches, turns.steps):
            scaled = nets.normal(inputs)
            batch = {
                "src_imgs": scaled[:half], "target_imgs": scaled[half:],
                "src_labels": labels[:half], **truth,
            }  # fmt: skip
            _, losses = hook({**batch, **models})
        turns.done(float(losses["total_loss"]["total"]))
