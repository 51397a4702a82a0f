"""Test-time adaptation over a stream of CIFAR-10 under five corruptions in turn.

    python scripts/train.py model=source_only data=cifar10 data.root=/data data.target=null
        backbone=small_cnn backbone.size=32 head_init=random optimizer.lr=1e-3 data.batch_size=64
        trainer.max_epochs=6 seed=0 hydra.run.dir=/runs/0           # and seeds 1 and 2
    python benchmarks/stream_adaptation.py runs=/runs data=/data out=/tmp/stream.jsonl [images=500]

predicts the stream with every way of adaptation and prints the accuracy on each corruption;
``out`` has one line per run and way, and what is done is skipped. Labels are used to count only.

The stream has the same ``images`` test images, in random order, under each corruption of
``tl_lightning.data.transforms.corruptions`` at severity 5, at their own 32 x 32 pixels. The second
stream is made to collapse tent: one corruption, sorted by class, a high learning rate and small
batches.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tl_lightning.data.transforms.corruptions import CORRUPTIONS, corrupted
from tl_lightning.inference.options import Options
from tl_lightning.inference.predict import opened

SEVERITY = 5
#: Ways of adaptation by name, and of the second stream.
WAYS: dict[str, Mapping[str, Any] | None] = {
    "trained model": None,
    "bn": {"method": "bn"},
    "tent": {"method": "tent"},
    "eata": {"method": "eata"},
    "sar": {"method": "sar"},
    "tent, lr 1e-3": {"method": "tent", "lr": 1e-3},
    "eata, lr 1e-3": {"method": "eata", "lr": 1e-3},
    "sar, lr 1e-3": {"method": "sar", "lr": 1e-3},
}
HOSTILE: dict[str, Mapping[str, Any] | None] = {
    "trained model": None,
    "tent, lr 1, without guard": {"method": "tent", "lr": 1.0, "prior": 0.0, "guard": False},
    "tent, lr 1": {"method": "tent", "lr": 1.0, "prior": 0.0},
    "tent, lr 1, reset every 160": {"method": "tent", "lr": 1.0, "prior": 0.0, "reset_every": 160},
    "bn, prior 0": {"method": "bn", "prior": 0.0},
    "tent, default options": {"method": "tent"},
}
HOSTILE_BATCH, HOSTILE_CORRUPTION = 16, ("jpeg", 3)


def main(arguments: list[str]) -> None:
    """Predict what is missing, and print the tables."""
    given = dict(item.split("=", 1) for item in arguments)
    out, count = Path(given["out"]), int(given.get("images", 500))
    root = next(one for one in (Path(given["data"]), Path(given["data"], "cifar10"))
                if (one / "test").is_dir())  # fmt: skip
    runs = sorted(Path(given["runs"]).iterdir(), key=lambda run: run.name)
    done = {(line["run"], line["stream"], line["way"]) for line in _lines(out)}
    for seed, run in enumerate(runs):
        images, labels = _images(root / "test", count)
        source = sorted((root / "train").glob("*/*"))
        for stream, ways in (("corruptions", WAYS), ("sorted", HOSTILE)):
            for way, adapt in ways.items():
                if (run.name, stream, way) in done:
                    continue
                small = stream == "sorted" and way != "tent, default options"
                batch = HOSTILE_BATCH if small else 64
                order = np.random.default_rng(seed).permutation(len(images))
                if stream == "sorted":
                    order = order[np.argsort(labels[order], kind="stable")]
                settings = adapt and dict(adapt)
                if settings and settings["method"] == "eata":
                    settings["fisher"] = [str(file) for file in source]
                pairs = [(name, SEVERITY) for name in CORRUPTIONS]
                pairs = pairs if stream == "corruptions" else [HOSTILE_CORRUPTION]
                names = [name for name, _ in pairs]
                inputs = (
                    corrupted(images[k], name, severity, int(k))
                    for name, severity in pairs for k in order
                )  # fmt: skip
                line = _predicted(run, inputs, np.tile(labels[order], len(names)), settings, batch)
                line |= {"run": run.name, "stream": stream, "way": way, "names": names}
                with out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
    for stream in ("corruptions", "sorted"):
        _print(stream, [line for line in _lines(out) if line["stream"] == stream])


def _images(folder: Path, count: int) -> tuple[list[torch.Tensor], Any]:
    """Return test images ``(3, 32, 32)`` and their labels, equally many of each class."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    images, labels = [], []
    for label, place in enumerate(classes):
        for file in sorted(place.iterdir())[: count // len(classes)]:
            images.append(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1))
            labels.append(label)
    return images, np.array(labels)


def _predicted(run: Path, inputs: Any, labels: Any, adapt: Any, batch: int) -> dict[str, Any]:
    work = opened(run, Options(batch_size=batch, workers=1, devices="cpu", adapt=adapt))
    started = time.monotonic()
    from tl_lightning.inference.sources import from_python

    right = []
    for chunk, rows in work.chunks(from_python(inputs, "images").samples):
        right += [row.label for row in rows]
        counts = dict(chunk.adapted)
    classes = np.array(work.predictor.classes)
    return {
        "right": (np.array(right) == classes[labels]).astype(int).tolist(),
        "seconds": time.monotonic() - started, "counts": counts,
    }  # fmt: skip


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _print(stream: str, lines: list[dict[str, Any]]) -> None:
    print(f"\n{stream}")
    for way in dict.fromkeys(line["way"] for line in lines):
        rows = [line for line in lines if line["way"] == way]
        parts = np.array([
            np.array(line["right"]).reshape(len(line["names"]), -1).mean(1) for line in rows
        ])  # fmt: skip
        values = [*parts.mean(0), parts.mean()]
        spread = parts.mean(1).std(ddof=1) if len(rows) > 1 else 0.0
        cells = " | ".join(f"{100 * value:.1f}" for value in values)
        by_run = ", ".join(f"{100 * value:.1f}" for value in parts.mean(1))
        returns = sum(line["counts"].get("returns", 0) for line in rows)
        kept = np.mean([line["counts"].get("by_trained_model", 0) for line in rows])
        seconds = np.mean([line["seconds"] for line in rows])
        print(f"| {way} | {cells} ± {100 * spread:.1f} ({by_run}) | {returns} | {kept:.0f} | "
              f"{seconds:.0f} s |")  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
