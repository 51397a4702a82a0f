"""Training time with cached features compared with a plain PyTorch loop, on one machine.

    python benchmarks/cached_features.py /data/dogs

The folder contains train/<class>/ and test/<class>/. Three things are timed, each in its own
process and with an empty cache:

plain    A typical training loop: ImageFolder, torchvision's transforms, a DataLoader with worker
         processes, float32, a frozen mobilenet_v2 that every image passes in every epoch, and a
         linear head trained with Adam. Two epochs are timed; the second one, with running workers
         and a warm file cache, is scaled to all epochs. No augmentation, as in tl_lightning.
command  `scripts/train.py model=feature_extraction` with the batch size and learning rate of the
         plain loop, including start-up, extraction, training, test and report. `inside` excludes
         start-up and report, as in the timing of report.json.
sweep    Eight heads in one `-m` sweep compared with a single head, in batches of 128.

tl_lightning holds out an eighth of the training images and validates on them every epoch, so both
sides process all images in an epoch. `inside` is compared with the epochs of the plain loop alone,
without its test. Accuracy: without augmentation, the frozen features of an image never change, so
the head of the plain loop is trained on float32 features that are computed once, on the images
that tl_lightning uses for training.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import models, transforms
from torchvision.datasets import ImageFolder

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "train.py"
ONE = ["data.batch_size=128", "head=mlp"]
HEADS = [*ONE, "head.activation=tanh,relu,sigmoid,gelu", "head.width=128,256"]


def loader(folder: Path, workers: int, shuffle: bool) -> DataLoader:
    steps = [
        transforms.Resize(256),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
    data = ImageFolder(folder, transforms.Compose(steps))
    return DataLoader(
        data, batch_size=32, shuffle=shuffle, num_workers=workers, persistent_workers=workers > 0
    )


def frozen() -> nn.Module:
    net = models.mobilenet_v2(weights="IMAGENET1K_V1")
    net.classifier = nn.Identity()
    for parameter in net.parameters():
        parameter.requires_grad = False
    return net.eval()


def plain(args: argparse.Namespace) -> dict[str, float]:
    """Time the second epoch of the plain loop, and its test."""
    net = frozen()
    train = loader(args.root / "train", args.workers, True)
    test = loader(args.root / "test", args.workers, False)
    head = nn.Linear(1280, len(train.dataset.classes))
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
    for _ in range(2):
        started = time.perf_counter()
        for images, labels in train:
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(net(images)), labels).backward()
            optimizer.step()
        epoch = time.perf_counter() - started
    started = time.perf_counter()
    with torch.no_grad():
        correct = sum(int((head(net(x)).argmax(1) == y).sum()) for x, y in test)
    assert correct >= 0
    return {"epoch": epoch, "test": time.perf_counter() - started, "images": len(train.dataset)}


def plain_accuracy(args: argparse.Namespace) -> dict[str, list[float]]:
    """Train the head of the plain loop on cached features, for each seed."""
    net = frozen()
    parts = []
    with torch.no_grad():
        for name in ("train", "test"):
            batches = [(net(x), y) for x, y in loader(args.root / name, args.workers, False)]
            parts.append([torch.cat(part) for part in zip(*batches, strict=True)])
    (features, labels), (test, truth) = parts
    kept = torch.tensor(training_rows(args.root))
    features, labels = features[kept], labels[kept]
    accuracies = []
    for seed in range(args.seeds):
        torch.manual_seed(seed)
        head = nn.Linear(1280, int(labels.max()) + 1)
        optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
        for _ in range(args.epochs):
            for rows in torch.randperm(len(labels)).split(32):
                optimizer.zero_grad()
                nn.functional.cross_entropy(head(features[rows]), labels[rows]).backward()
                optimizer.step()
        with torch.no_grad():
            accuracies.append(float((head(test).argmax(1) == truth).float().mean()))
    return {"accuracies": accuracies}


def training_rows(root: Path) -> list[int]:
    """Return the ImageFolder indices of the images that tl_lightning trains on."""
    from tl_lightning.config.compose import compose
    from tl_lightning.config.validation import check as validation

    settings = ["data=dogs", f"data.root={root}", "data.target=null", "model=feature_extraction"]
    data = validation.check(compose(settings)).data.build()
    data.discover()
    paths = [str(Path(path).resolve()) for path, _ in ImageFolder(root / "train").samples]
    train = {str(Path(path).resolve()) for path in data.found["source"].train.samples}
    return [index for index, path in enumerate(paths) if path in train]


def run_command(args: argparse.Namespace, folder: Path, *overrides: str) -> float:
    """Run the command with an empty cache and return its duration in seconds."""
    key = "hydra.sweep.dir" if "-m" in overrides else "hydra.run.dir"
    command = [
        sys.executable, str(SCRIPT), *overrides, "model=feature_extraction", "data=dogs",
        f"data.root={args.root}", "data.target=null", "data.augment=none", "backbone=mobilenet_v2",
        "scheduler=constant", f"trainer.max_epochs={args.epochs}", f"{key}={folder}",
    ]  # fmt: skip
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "TL_CACHE": cache}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return time.perf_counter() - started


def child(args: argparse.Namespace, part: str) -> dict:
    """Run one part of the plain loop in its own process; add the total duration to its result."""
    started = time.perf_counter()
    command = [sys.executable, __file__, str(args.root), "--part", part]
    command += [f"--{key}={getattr(args, key)}" for key in ("epochs", "seeds", "workers")]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {**json.loads(text.splitlines()[-1]), "seconds": time.perf_counter() - started}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--part", choices=["plain", "accuracy"], help="for internal use")
    args = parser.parse_args()
    args.root = args.root.resolve()
    if args.part:
        print(json.dumps(plain(args) if args.part == "plain" else plain_accuracy(args)))
        return
    timed = child(args, "plain")
    inside_plain = args.epochs * timed["epoch"]
    # Start-up and test are what remains of the process's duration without the two epochs.
    command_plain = inside_plain + max(0.0, timed["seconds"] - 2 * timed["epoch"])
    rate = timed["images"] / timed["epoch"]
    print(f"plain: {timed['epoch']:.1f} s per epoch ({rate:.0f} images/s)", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        runs = []
        for seed in range(args.seeds):
            run_dir = Path(folder) / str(seed)
            seconds = run_command(args, run_dir, f"seed={seed}")
            report = json.loads((run_dir / "report.json").read_text())
            runs.append((seconds, report["timing"]["total_s"], report["metrics"]))
            inside = runs[-1][1]
            print(f"tl_lightning, seed {seed}: {seconds:.1f} s, {inside:.1f} s inside", flush=True)
        one = run_command(args, Path(folder) / "one", *ONE)
        heads = run_command(args, Path(folder) / "heads", "-m", *HEADS)
    plain_accuracies = child(args, "accuracy")["accuracies"]
    accuracies = [metrics["source/test/acc"] for *_, metrics in runs]
    print(
        f"accuracy: plain {100 * mean(plain_accuracies):.2f}, "
        f"tl_lightning {100 * mean(accuracies):.2f}"
    )
    print(f"8 heads: {heads:.1f} s, one {one:.1f} s: {heads / one:.2f}x")
    median = sorted(runs)[len(runs) // 2]
    print(f"inside {inside_plain / median[1]:.1f}x")
    print(f"command {command_plain / median[0]:.1f}x")


if __name__ == "__main__":
    main()
