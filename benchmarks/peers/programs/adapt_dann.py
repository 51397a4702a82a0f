"""DANN with pytorch-adapt's hook: class folders of two domains, accuracy on the target."""

import sys

import torch
from benchmarks.peers.nets import LAMBDA, dann_parts
from pytorch_adapt.hooks import DANNHook
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

root, epochs = sys.argv[1], int(sys.argv[3])
view = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)])
source, target = (ImageFolder(f"{root}/{name}", view) for name in ("a", "b"))
loaders = [DataLoader(data, 64, shuffle=True, drop_last=True) for data in (source, target)]
features, classify, critic = dann_parts()
models = {"G": features, "C": classify, "D": nn.Sequential(critic, nn.Flatten(0))}
optimizers = [torch.optim.Adam(net.parameters(), lr=1e-3) for net in models.values()]
hook = DANNHook(opts=optimizers, gradient_reversal_weight=LAMBDA)
domains = {"src_domain": torch.ones(64), "target_domain": torch.zeros(64)}
for epoch in range(epochs):
    for (images, labels), (others, _) in zip(*loaders, strict=False):
        batch = {"src_imgs": images, "src_labels": labels, "target_imgs": others, **domains}
        hook({**batch, **models})
        print("step", flush=True)
    print("epoch", epoch, flush=True)
features.eval()
with torch.no_grad():
    hits = [classify(features(x)).argmax(1) == y for x, y in DataLoader(target, 256)]
print("accuracy", float(torch.cat(hits).float().mean()))
