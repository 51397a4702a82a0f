"""A head with hidden layers, trained on the features of a frozen network."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tl_lightning.methods.components.domain_norm import state_of_domain
from tl_lightning.schedules import Cosine
from tl_lightning.tasks.head import Head
from tl_lightning.types import DOMAINS
from tl_lightning.utils.seeding import mix

__all__ = ["FittedHead", "fit_head"]

Array = NDArray[Any]

#: AdamW with a cosine schedule: batch size, learning rate and weight decay.
BATCH, RATE, DECAY = 128, 1e-3, 1e-2
#: Optimizer steps, and the least number of passes over the samples.
STEPS, PASSES = 1000, 10
#: Number of times that the validation samples are scored, evenly spread over the steps.
CHECKS = 20


@dataclass(frozen=True)
class FittedHead:
    """A trained head.

    Attributes:
        head: The head, in evaluation mode and in float32.
        step: The optimizer step that it was kept at, from 1.
        accuracy: Its accuracy on the validation samples.
    """

    head: Head
    step: int
    accuracy: float

    @torch.no_grad()
    def outputs(self, features: Array) -> tuple[Array, Array]:
        """Return the classifier's inputs ``(N, D')`` and the logits ``(N, K)``."""
        inputs, logits = self.head(torch.as_tensor(features, dtype=torch.float32))
        return inputs.numpy(), logits.numpy()

    @torch.no_grad()
    def write(self, head: Head) -> None:
        """Copy the weights and statistics to a head, for all domains if it keeps them apart.

        What the head has besides, such as a map of the target's features, is left as it is.
        """
        fitted = self.head.state_dict()
        for domain in DOMAINS:
            for name, own in state_of_domain(head, domain):
                if name in fitted:
                    own.copy_(fitted[name])


def fit_head(
    head: Head, features: Array, labels: Array, val_features: Array, val_labels: Array, seed: int
) -> FittedHead:
    """Train a head by gradient descent until its validation accuracy no longer rises.

    The features are scaled to a root mean square of 1 while it is trained, so that the learning
    rate suits any network. Of the models scored on the validation samples, the one with the best
    accuracy is kept; of equal ones, that with the lowest cross-entropy. The result depends only on
    the arguments, and global random numbers are left as they are.

    Args:
        head: The head to start from; it is changed.
        features: ``(N, D)``.
        labels: Class indices ``(N,)``.
        val_features: ``(M, D)`` of the same domain.
        val_labels: ``(M,)``.
        seed: Seed of the order of the samples, and of dropout.
    """
    scale = float(np.sqrt(np.mean(np.square(features, dtype=np.float64)))) or 1.0
    x, val = (
        torch.as_tensor(part, dtype=torch.float32) / scale for part in (features, val_features)
    )
    y, val_y = torch.as_tensor(labels), torch.as_tensor(val_labels)
    head = head.cpu().float().requires_grad_(True)
    optimizer = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
    schedule, steps = Cosine(warmup=0.0, final=0.0), max(STEPS, PASSES * len(x) // BATCH)
    best, found = (-1.0, 0.0), FittedHead(head, 0, 0.0)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.default_generator.manual_seed(mix(seed, 1))
        for step, rows in zip(range(1, steps + 1), _batches(len(x), mix(seed, 2)), strict=False):
            optimizer.param_groups[0]["lr"] = RATE * schedule((step - 1) / steps)
            head.train()
            optimizer.zero_grad(set_to_none=True)
            loss: Any = functional.cross_entropy(head(x[rows])[1], y[rows])
            loss.backward()
            optimizer.step()
            if step * CHECKS // steps > (step - 1) * CHECKS // steps:
                score = _scored(head.eval(), val, val_y)
                if score >= best:
                    best, found = score, FittedHead(copy.deepcopy(head), step, score[0])
    with torch.no_grad():
        _first(found.head).weight /= scale
    return found


def _batches(size: int, seed: int) -> Iterator[Tensor]:
    """Yield the indices of full batches, pass by pass; all samples if they are fewer."""
    generator = torch.Generator().manual_seed(seed)
    number = max(1, size // BATCH)
    while True:
        order = torch.randperm(size, generator=generator)
        yield from torch.split(order[: number * BATCH], BATCH)


@torch.no_grad()
def _scored(head: Head, features: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the accuracy and the negative cross-entropy; zeros without samples."""
    if not len(features):
        return 0.0, 0.0
    logits = head(features)[1]
    loss = functional.cross_entropy(logits, labels)
    return float((logits.argmax(1) == labels).float().mean()), -float(loss)


def _first(head: Head) -> nn.Linear:
    """Return the layer that takes the features."""
    return next(part for part in head.modules() if isinstance(part, nn.Linear))
