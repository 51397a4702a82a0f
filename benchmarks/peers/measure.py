"""Measures the rows of the page that train, one function each; all rows by name."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from benchmarks.peers import commands
from benchmarks.peers.contest import compete, filled, memory
from benchmarks.peers.probe import CLASSES, aligned
from benchmarks.peers.rounds import REPO
from benchmarks.peers.rows import OURS, Row, Value
from benchmarks.peers.setting import NO_ADAPTATION, Setting, value
from benchmarks.peers.startup import imports, own_commands, resume, start
from benchmarks.peers.texts import fine_tuning

__all__ = ["ROWS"]


def dann(setting: Setting) -> list[Row]:
    peers = ("torch", "lightning", "pytorch_adapt", "pykale", "skada")
    steps = 1 if setting.tiny else 5
    found = compete(setting, "dann", peers, steps)
    row = Row("dann", "DANN: a training step", "ms", "less", asked=2.0)
    row.how = (
        "Batches of 64 + 64 random images of 28 x 28 pixels in memory, three blocks of "
        "convolution, batch norm and pooling (32, 64, 128), a discriminator with two layers of "
        f"512, Adam; turns of {steps} steps, the same initial weights "
        "(`benchmarks/peer_losses.py` compares losses and gradients)."
    )
    notes = {
        "pytorch-adapt": "each domain in a pass of its own",
        "PyKale": "two outputs of the discriminator, lambda grows; epoch includes its loader",
        "skada": "loads, shuffles and collates samples one by one",
    }
    row.absent = {
        **setting.absent(peers), "timm": NO_ADAPTATION, "fastai": NO_ADAPTATION,
    }  # fmt: skip
    rows = [filled(row, found, 1000 / steps, notes)]
    return [*rows, memory("dann_memory", "DANN: peak memory", found)]


def full(setting: Setting) -> list[Row]:
    peers = ("torch", "lightning", "timm", "fastai")
    steps = 1
    found = compete(setting, "full", peers, steps)
    row = Row("full", "Full fine-tuning: a step", "images/s", "more", asked=3.0)
    row.how = (
        "resnet18 from the same random weights, batches of 32 random images of 224 x 224 pixels in "
        "memory, with scaling and normalisation; a turn is a step; optimizers are the defaults of "
        "each."
    )
    row.absent = setting.absent(peers)
    filled(row, found, 1.0, {})
    for one in row.values.values():
        one.median = steps * 32 / one.median
    return [row, memory("full_memory", "Full fine-tuning: peak memory", found)]


@contextlib.contextmanager
def part_of(data: Path, classes: int) -> Iterator[Path]:
    """Give a folder with links to the first classes of a dataset."""
    with tempfile.TemporaryDirectory() as name:
        for part in ("train", "test"):
            (Path(name) / part).mkdir()
            for folder in sorted((data / part).iterdir())[:classes]:
                (Path(name) / part / folder.name).symlink_to(folder)
        yield Path(name)


def counted(data: Path) -> list[int]:
    """Return the number of training and test images."""
    parts = (data / "train", data / "test")
    return [sum(len(list(one.iterdir())) for one in part.iterdir()) for part in parts]


def frozen(setting: Setting) -> list[Row]:
    """Compare a study of 50 epochs; the epochs of the peers are calculated from some batches."""
    if setting.data is None:
        return []
    peers = ("torch", "timm", "fastai")
    epochs, own = 2 if setting.tiny else 50, []
    with part_of(setting.data, CLASSES) as data, tempfile.TemporaryDirectory() as folder:
        images, tested = counted(data)
        found = compete(setting, "frozen", peers, 1, str(data / "train"))
        for seed in setting.repetitions():
            overrides = [f"seed={seed}", f"trainer.max_epochs={epochs}"]
            place = Path(folder) / str(seed)
            own.append(commands.study(data, place, setting.threads, overrides))
    accuracy = median(run["accuracy"] for run in own)
    rows = []
    for key, title, asked, passes in (
        ("inside", "Frozen network: training", 100.0, images * epochs),
        ("command", "Frozen network: whole command", 40.0, images * epochs + tested),
    ):
        row = Row(f"frozen_{key}", title, "s", "less", asked)
        row.how = (
            f"{images:,} training and {tested:,} test images, MobileNetV2 with ImageNet weights, "
            f"{epochs} epochs of a linear head, no augmentation. Peers pass every image through "
            f"the network in every epoch; {epochs} epochs are calculated from turns of one batch "
            "of 32. Images are read by the process that trains."
        )
        if key == "command":
            row.how += " The peers' test is calculated from the same turns, without start-up."
        for name, one in found.items():
            if one.problem:
                row.absent[name] = one.problem
            else:
                row.values[name] = value(one.seconds, passes / 32, "calculated")
        row.values[OURS] = value([run[key] for run in own], note=f"test accuracy {accuracy:.3f}")
        row.absent.update(setting.absent(peers))
        rows.append(row)
    return rows


def heads(setting: Setting) -> list[Row]:
    if setting.data is None:
        return []
    one, eight = [], []
    epochs = f"trainer.max_epochs={2 if setting.tiny else 50}"
    common = ["data.batch_size=128", "head=mlp", epochs]
    grid = ["-m", "head.activation=tanh,relu,sigmoid,gelu", "head.width=128,256"]
    with part_of(setting.data, CLASSES) as data, tempfile.TemporaryDirectory() as folder:
        images, tested = counted(data)
        for k in setting.repetitions(2):
            for found, more in ((one, []), (eight, grid)):
                place = Path(folder) / f"{k}-{len(more)}"
                run = commands.study(data, place, setting.threads, [*more, *common])
                found.append(run["command"])
    row = Row("heads", "Eight heads in one sweep, in times of one", "times", "less", 1.5)
    row.absolute = True
    row.how = (
        f"The whole commands on {images:,} training and {tested:,} test images, "
        f"{epochs.split('=')[1]} epochs in batches of 128: one head {median(one):.1f} s, eight "
        f"{median(eight):.1f} s."
    )
    ratios = [b / a for a, b in zip(one, eight, strict=True)]
    row.values = {OURS: value(ratios), "one command each": Value(8.0, 0.0, 0, "by definition")}
    return [row]


def pipeline(setting: Setting) -> list[Row]:
    """Decoded cache against ImageFolder, by the script that compares them."""
    if setting.data is None:
        return []
    count = 100 if setting.tiny else 1000
    command = [
        sys.executable, str(REPO / "benchmarks" / "images.py"), str(setting.data / "train"),
        f"--images={count}", "--workers=0", f"--repeats={setting.rounds}",
    ]  # fmt: skip
    environment = commands.environment(1)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    row = Row("cache", "Reading images: cache against ImageFolder", "images/s", "more", 8.0)
    row.how = (
        f"`benchmarks/images.py`, {count:,} photographs enlarged to 500 x 375, random resized crop "
        "and flip, batches of 64, one thread, no worker processes."
    )
    for name, rate in json.loads(done.stdout)["samples_per_s"].items():
        row.values[TITLES[name]] = Value(rate, 0, setting.rounds)
    return [row]


TITLES = {"cached": OURS, "tv": "ImageFolder, torchvision's decoder", "pil": "ImageFolder, Pillow"}

ROWS: dict[str, Callable[[Setting], list[Row]]] = {
    "dann": dann, "full": full, "commands": own_commands, "imports": imports, "start": start,
    "resume": resume, "pipeline": pipeline, "frozen": frozen, "heads": heads,
    "texts": fine_tuning, "aligned": aligned,
}  # fmt: skip
