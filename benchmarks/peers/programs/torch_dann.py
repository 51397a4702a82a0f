"""DANN in plain torch: images in class folders of two domains, accuracy on the target."""

import sys

import torch
from benchmarks.peers.nets import LAMBDA, Reverse, dann_parts
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

root, epochs = sys.argv[1], int(sys.argv[3])
view = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)])
source, target = (ImageFolder(f"{root}/{name}", view) for name in ("a", "b"))
loaders = [DataLoader(data, 64, shuffle=True, drop_last=True) for data in (source, target)]
features, classify, critic = dann_parts()
weights = [weight for net in (features, classify, critic) for weight in net.parameters()]
optimizer = torch.optim.Adam(weights, lr=1e-3)
domains = torch.cat([torch.ones(64), torch.zeros(64)])
for epoch in range(epochs):
    features.train()
    for (images, labels), (others, _) in zip(*loaders, strict=False):
        found = features(torch.cat([images, others]))
        loss = nn.functional.cross_entropy(classify(found[:64]), labels)
        logits = critic(Reverse.apply(found)).squeeze(1)
        loss = loss + nn.functional.binary_cross_entropy_with_logits(logits, domains)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print("step", flush=True)
    print("epoch", epoch, flush=True)
features.eval()
with torch.no_grad():
    hits = [classify(features(x)).argmax(1) == y for x, y in DataLoader(target, 256)]
print("accuracy", float(torch.cat(hits).float().mean()), LAMBDA)
