"""DANN with skada: images in class folders of two domains, accuracy on the target."""

import sys

import numpy as np
import torch
from benchmarks.peers.nets import LAMBDA, dann_parts
from skada.deep import DANN
from skorch.callbacks import Callback, Checkpoint, LoadInitState
from torch import nn
from torchvision import transforms
from torchvision.datasets import ImageFolder

root, folder, epochs = sys.argv[1], sys.argv[2], int(sys.argv[3])


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features, self.classify, _ = dann_parts()

    def forward(self, x, sample_weight=None):
        return self.classify(self.features(x))


class Shown(Callback):
    def on_batch_end(self, net, training=False, **_):
        if training:
            print("step", flush=True)

    def on_epoch_end(self, net, **_):
        print("epoch", len(net.history) - 1, flush=True)


view = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)])
parts = [list(ImageFolder(f"{root}/{name}", view)) for name in ("a", "b")]
images = [torch.stack([x for x, _ in part]).numpy() for part in parts]
labels = [np.array([y for _, y in part]) for part in parts]
domains = np.repeat([1, -2], [len(part) for part in parts])
*_, critic = dann_parts()
saved = Checkpoint(dirname=folder, monitor=None)
net = DANN(
    Net(), layer_name="features", reg=LAMBDA,
    domain_classifier=nn.Sequential(critic, nn.Sigmoid(), nn.Flatten(0)),
    batch_size=64, optimizer=torch.optim.Adam, lr=1e-3, max_epochs=epochs, train_split=None,
    verbose=0, callbacks=[("load", LoadInitState(saved)), ("save", saved), ("shown", Shown())],
)  # fmt: skip
truth = np.concatenate([labels[0], np.full_like(labels[1], -1)])
net.fit(np.concatenate(images), truth, sample_domain=domains)
hits = net.predict(images[1], sample_domain=np.full(len(labels[1]), -2), allow_source=True)
print("accuracy", float((hits == labels[1]).mean()))
