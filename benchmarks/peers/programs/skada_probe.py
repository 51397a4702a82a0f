"""A linear probe aligned to the target, with skada and scikit-learn on features of torchvision."""

import json
import sys
import time

import numpy as np
import torch
from skada import CORALAdapter, SubspaceAlignmentAdapter, make_da_pipeline
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader
from torchvision import models, transforms
from torchvision.datasets import ImageFolder

root = sys.argv[1]
began = time.process_time()
net = models.mobilenet_v2(weights="IMAGENET1K_V1")
net.classifier = torch.nn.Identity()
net.eval()
view = transforms.Compose([
    transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(),
    transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
])  # fmt: skip


def features(part):
    loader = DataLoader(ImageFolder(f"{root}/{part}", view), 64)
    with torch.inference_mode():
        found = [(net(images), labels) for images, labels in loader]
    return tuple(torch.cat(one).numpy() for one in zip(*found, strict=True))


(source, labels), (target, _) = features("source/train"), features("target/train")
tested, truth = features("target/test")
taken = time.process_time() - began
inputs = np.concatenate([source, target]).astype(np.float64)
known = np.concatenate([labels, np.full(len(target), -1)])  # the target has no labels
domains = np.repeat([1, -2], [len(source), len(target)])


def adapted(*steps):
    model = make_da_pipeline(*steps, LogisticRegression(max_iter=1000))
    model.fit(inputs, known, sample_domain=domains)
    return model.predict(tested.astype(np.float64), sample_domain=np.full(len(tested), -2))


def standardised():
    model = LogisticRegression(max_iter=1000)
    model.fit(StandardScaler().fit_transform(source), labels)
    return model.predict(StandardScaler().fit(target).transform(tested))


def unaligned():
    return LogisticRegression(max_iter=1000).fit(source, labels).predict(tested)


ways = {
    "skada, subspace": lambda: adapted(SubspaceAlignmentAdapter(n_components=100)),
    "skada, CORAL": lambda: adapted(CORALAdapter()),
    "scikit-learn, moments": standardised,
    "without alignment": unaligned,
}
fits = {}
for name, way in ways.items():
    began = time.process_time()
    accuracy = float((way() == truth).mean())
    fits[name] = {"seconds": time.process_time() - began, "accuracy": accuracy}
print(json.dumps({"features": taken, "fits": fits}))
