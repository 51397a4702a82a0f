"""fastai's Learner with its defaults: float32, its Adam, one cycle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from benchmarks.peers import nets
from benchmarks.peers.turns import Turns
from fastai.callback.core import Callback, CancelTrainException, CancelValidException
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.vision.all import (
    ImageDataLoaders,
    Normalize,
    Resize,
    create_vision_model,
    default_split,
    imagenet_stats,
)
from torch import nn


class Clock(Callback):
    """A turn is the training part of an epoch."""

    def __init__(self, turns: Turns, scale: bool) -> None:
        self.turns, self.scale = turns, scale

    def before_train(self) -> None:
        self.turns.wait()

    def before_batch(self) -> None:
        if self.scale:
            self.learn.xb = (nets.normal(self.learn.xb[0]),)

    def after_batch(self) -> None:
        if self.learn.training and self.learn.iter + 1 == self.turns.steps:
            self.turns.done(float(self.learn.loss))
            raise CancelTrainException

    def before_validate(self) -> None:
        raise CancelValidException


class Memory:
    def __init__(self, steps: int) -> None:
        batches = nets.images(nets.FULL)
        self.inputs, self.labels = (torch.cat(part) for part in zip(*batches, strict=True))
        self.count = steps * nets.FULL["batch"]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return self.inputs[index % len(self.inputs)], self.labels[index % len(self.labels)]


def full(turns: Turns) -> None:
    data = DataLoaders.from_dsets(
        Memory(turns.steps), Memory(turns.steps), bs=nets.FULL["batch"], num_workers=0, device="cpu"
    )
    learner = Learner(
        data, nets.resnet18(), loss_func=nn.CrossEntropyLoss(), cbs=[Clock(turns, True)]
    )
    repeat(learner)


def frozen(turns: Turns, folder: str) -> None:
    from torchvision.models import mobilenet_v2

    data = ImageDataLoaders.from_folder(
        Path(folder), valid_pct=0.125, seed=0, item_tfms=Resize(224), bs=32, num_workers=0,
        batch_tfms=[Normalize.from_stats(*imagenet_stats)], device="cpu",
    )  # fmt: skip
    # Its speed does not depend on the weights, of which it would download others.
    # What vision_learner does, which does not pass on cut (2.8.12): by default it looks for a layer
    # of pooling, of which this network has none.
    net = create_vision_model(mobilenet_v2, data.c, pretrained=False, cut=-1)
    learner = Learner(data, net, splitter=default_split, cbs=[Clock(turns, False)])
    learner.freeze()
    repeat(learner)


def repeat(learner: Learner) -> None:
    while True:
        with learner.no_logging(), learner.no_bar():
            learner.fit_one_cycle(1)
