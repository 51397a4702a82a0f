"""Training on class folders with fastai, without adaptation, which it does not have."""

import sys
from pathlib import Path

from benchmarks.peers.nets import dann_parts
from fastai.vision.all import (
    Callback,
    CrossEntropyLossFlat,
    ImageDataLoaders,
    Learner,
    SaveModelCallback,
    accuracy,
)
from torch import nn

root, folder, epochs = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])


class Shown(Callback):
    def after_batch(self):
        if self.training:
            print("step", flush=True)

    def after_epoch(self):
        print("epoch", self.epoch, flush=True)


data = ImageDataLoaders.from_folder(
    f"{root}/a", valid_pct=0.1, seed=0, bs=64, num_workers=0, device="cpu"
)
features, classify, _ = dann_parts()
learner = Learner(
    data, nn.Sequential(features, classify), loss_func=CrossEntropyLossFlat(), metrics=accuracy,
    path=folder, cbs=[SaveModelCallback(every_epoch=True, with_opt=True), Shown()],
)  # fmt: skip
saved = sorted(folder.glob("models/model_*.pth"), key=lambda one: one.stat().st_mtime)
start = 0
if saved:
    learner.load(saved[-1].stem)
    start = int(saved[-1].stem.split("_")[1]) + 1
with learner.no_bar():
    learner.fit(epochs, start_epoch=start)
