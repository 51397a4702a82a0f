"""Throughput of the input pipeline alone: decoded cache compared with an ImageFolder loader.

    python benchmarks/images.py /data/dogs/train --images 2000 --workers 2 --repeats 5

All loaders use the same augmentation (random resized crop of at least half the area, flip), batch
size and number of workers. There are two baselines, with persistent workers and a warm file cache:
`tv` with torchvision's own JPEG decoder and uint8 kernels, and `pil` with Pillow. The first epoch
is a warm-up; each repeat times one further epoch of every loader, in turn, and the result is the
median. Images are first resized to 500 x 375 and saved as JPEG with quality 90.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.io import decode_jpeg, read_file
from torchvision.transforms import v2

from tl_lightning.config.schema import CacheConfig
from tl_lightning.data.cache.build_images import build_cache
from tl_lightning.data.cache.images import CachedReader
from tl_lightning.data.datasets import ImageDataset
from tl_lightning.data.domain import Split
from tl_lightning.data.io.images import shorter_side
from tl_lightning.data.loaders import loader_of
from tl_lightning.data.samplers.domain import DomainSampler
from tl_lightning.data.transforms.presets import augmentation
from tl_lightning.types import InputSpec
from tl_lightning.utils.process import keep_memory

SPEC = InputSpec(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def enlarge(source: Path, folder: Path, number: int) -> None:
    paths = sorted(source.rglob("*.jpg"))
    for k, path in enumerate(paths[:: max(1, len(paths) // number)][:number]):
        target = folder / f"class{k % 10}" / f"{k:05d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        size = (500, 375) if k % 3 else (375, 500)
        Image.open(path).convert("RGB").resize(size, Image.Resampling.BICUBIC).save(
            target, quality=90
        )


def baseline(folder: Path, batch: int, workers: int, decoder: str) -> DataLoader:
    crop = v2.RandomResizedCrop(224, scale=(0.5, 1.0), antialias=True)
    steps = [crop, v2.RandomHorizontalFlip()]
    if decoder == "tv":
        data = ImageFolder(
            folder, v2.Compose(steps), loader=lambda path: decode_jpeg(read_file(path))
        )
    else:
        data = ImageFolder(folder, v2.Compose([*steps, v2.PILToTensor()]))
    return DataLoader(
        data, batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0,
        drop_last=True, prefetch_factor=4 if workers else None,
    )  # fmt: skip


def cached(folder: Path, cache: Path, batch: int, workers: int) -> tuple[DataLoader, float]:
    paths = sorted(folder.rglob("*.jpg"))
    names = [path.relative_to(folder).as_posix() for path in paths]
    split = Split(paths, np.zeros(len(paths), dtype=np.int64), names)
    started = time.perf_counter()
    settings = CacheConfig(images="decoded", dir=str(cache))
    images = build_cache(split, "benchmark", shorter_side(SPEC), SPEC, settings)
    seconds = time.perf_counter() - started
    preset = augmentation(SPEC, "light")
    data = ImageDataset(split, CachedReader(images, names), preset.geometry, SPEC.size)
    sampler = DomainSampler(
        size=len(paths), batch_size=batch, num_batches=len(paths) // batch, seed=0, domain=0
    )
    return loader_of(data, batch, sampler, workers, False), seconds


def epoch(loader: DataLoader) -> float:
    started, samples = time.perf_counter(), 0
    for batch in loader:
        samples += len(batch["inputs"] if isinstance(batch, dict) else batch[0])
    return samples / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_memory()  # as in every run; inherited by the workers of the baseline
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "images"
        enlarge(options.source, folder, options.images)
        cache, seconds = cached(folder, Path(root) / "cache", options.batch, options.workers)
        loaders = {
            "cached": cache,
            "tv": baseline(folder, options.batch, options.workers, "tv"),
            "pil": baseline(folder, options.batch, options.workers, "pil"),
        }
        rates: dict[str, list[float]] = {name: [] for name in loaders}
        for loader in loaders.values():
            epoch(loader)  # the first epoch starts the workers and warms the file cache
        for _ in range(options.repeats):
            for name, loader in loaders.items():
                rates[name].append(epoch(loader))
        median = {name: statistics.median(values) for name, values in rates.items()}
        size = sum(path.stat().st_size for path in folder.rglob("*.jpg")) / options.images
        print(json.dumps({
            "workers": options.workers, "cores": os.cpu_count(), "build_s": round(seconds, 1),
            "mean_jpeg_bytes": round(size),
            "samples_per_s": {name: round(rate) for name, rate in median.items()},
            "ratio_to_tv": round(median["cached"] / median["tv"], 2),
            "ratio_to_pil": round(median["cached"] / median["pil"], 2),
        }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
