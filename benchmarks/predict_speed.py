"""Images per second of predictions, against the loops that one would write with the same network.

    python benchmarks/predict_speed.py <run folder> <folder of images> [--rounds 3]

Compared, interleaved, in one process and with the same number of threads of torch; medians:

- ``loop``: Pillow, torchvision's Resize, CenterCrop, ToTensor and Normalize, batches of 64,
  ``torch.no_grad()``, no workers;
- ``loader``: the same transforms in a DataLoader with two worker processes;
- ``predict``: ``tl.predict`` with its defaults, without and with writing a CSV file.

All classify with the network of the checkpoint. The fraction of images with the same class is
printed as well; the resized pixels differ slightly, as Pillow and torch round differently.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

import tl_lightning as tl
from tl_lightning.inference.formats import format_of
from tl_lightning.inference.options import Options
from tl_lightning.inference.predict import opened, to_file
from tl_lightning.inference.sources import from_input

BATCH = 64


class Files(Dataset[torch.Tensor]):
    """Images as the usual evaluation transform prepares them."""

    def __init__(self, files: list[Path], spec: Any) -> None:
        self.files = files
        self.transform = v2.Compose([
            v2.Resize(round(spec.size / spec.crop_pct), v2.InterpolationMode(spec.interpolation)),
            v2.CenterCrop(spec.size), v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(spec.mean, spec.std),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.files[index]) as image:
            found: torch.Tensor = self.transform(image.convert("RGB"))
        return found


def loop(model: Any, files: Files, workers: int) -> list[int]:
    """Return the class of each image, from a plain loop."""
    labels: list[int] = []
    with torch.no_grad():
        for batch in DataLoader(files, BATCH, num_workers=workers):
            labels += model.task(model.backbone(batch))[1].argmax(1).tolist()
    return labels


def main() -> None:
    """Print the medians as a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--number", type=int, default=None, help="only this many images")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = tl.load(args.run)
    work = opened(args.run, Options())
    every = list(from_input(str(args.images), "images").samples)
    samples = every[:: max(1, len(every) // args.number)] if args.number else every
    files = Files([sample.value for sample in samples], work.predictor.spec)

    def written() -> list[str]:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out.csv"
            to_file(work, samples, out, format_of(out, 1, False), lambda done, earlier=False: None)
            return out.read_text().splitlines()

    ways = {
        "loop": lambda: loop(model, files, 0),
        "loader, 2 workers": lambda: loop(model, files, 2),
        "predict": lambda: [r.label for _, rows in work.chunks(iter(samples)) for r in rows],
        "predict to CSV": written,
    }
    ways["predict"]()  # warm the cache of the file system
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    results: dict[str, Any] = {}
    for _ in range(args.rounds):
        for name, way in ways.items():
            before, used = time.perf_counter(), os.times()
            results[name] = way()
            wall[name].append(time.perf_counter() - before)
            cpu[name].append(sum(os.times()[:4]) - sum(used[:4]))
    labels = [work.predictor.classes[label] for label in results["loop"]]
    same = sum(a == b for a, b in zip(labels, results["predict"], strict=True)) / len(samples)
    base = statistics.median(wall["loop"])
    print(f"{len(samples):,} images, {args.threads} threads, load {os.getloadavg()[0]:.1f}, "
          f"medians of {args.rounds}; {100 * same:.2f} % with the same class")  # fmt: skip
    for name in ways:
        seconds, used_s = (statistics.median(one[name]) for one in (wall, cpu))
        print(f"{name:18} {len(samples) / seconds:7.1f} images/s  {base / seconds:5.2f} x "
              f"({used_s / len(samples) * 1000:.1f} ms of processor time an image)")  # fmt: skip
    sys.stdout.flush()


if __name__ == "__main__":
    main()
