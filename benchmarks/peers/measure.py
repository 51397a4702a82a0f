"""Measures the rows of the page, one function each."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.peers import commands
from benchmarks.peers.environments import PEERS, Environment
from benchmarks.peers.rounds import REPO, Measured, interleaved, spread
from benchmarks.peers.rows import OURS, Row, Value

__all__ = ["ROWS", "Setting"]

CONTESTANTS = {
    "torch": "torch_loop", "lightning": "lightning_loop", "timm": "timm_step",
    "fastai": "fastai_learner", "pytorch_adapt": "adapt_hooks", "pykale": "kale_trainer",
    "skada": "skada_net",
}  # fmt: skip
NO_ADAPTATION = "has no domain adaptation"
NO_PROGRAM = "its train.py is not in its distribution"
#: Classes of photographs of the studies.
CLASSES = 24


@dataclass
class Setting:
    """What all rows have in common.

    Attributes:
        environments: Environment of each peer.
        data: Folder of photographs with train/<class> and test/<class>, or None.
        rounds: Number of repetitions.
        threads: Compute threads.
        tiny: Whether to only try everything once.
    """

    environments: Mapping[str, Environment]
    data: Path | None
    rounds: int
    threads: int
    tiny: bool = False

    def usable(self, names: Sequence[str]) -> dict[str, Environment]:
        """Return the environments of these peers that were made."""
        return {n: self.environments[n] for n in names if not self.environments[n].problem}

    def absent(self, names: Sequence[str]) -> dict[str, str]:
        """Return why the others of these peers are missing."""
        found = {n: self.environments[n].problem for n in names}
        return {PEERS[n].title: f"not installed: {why}" for n, why in found.items() if why}


def value(seconds: Sequence[float], scale: float = 1.0, note: str = "") -> Value:
    """Return the figure of some repetitions."""
    return Value(scale * median(seconds), spread(seconds), len(seconds), note)


def compete(
    setting: Setting, row: str, peers: Sequence[str], steps: int, *more: str
) -> dict[str, Measured]:
    """Measure the worker processes of tl_lightning and of the peers in turns."""
    pythons = {PEERS[n].title: (e.python, CONTESTANTS[n]) for n, e in setting.usable(peers).items()}
    if not more:
        pythons[OURS] = (Path(sys.executable), "own")
    common = [row, str(steps), str(setting.threads), *more]
    worker = ["-m", "benchmarks.peers.worker"]
    found = {name: [str(p), *worker, module, *common] for name, (p, module) in pythons.items()}
    return interleaved(found, setting.rounds, setting.threads)


def filled(row: Row, found: Mapping[str, Measured], scale: float, notes: Mapping[str, str]) -> Row:
    """Enter the medians of worker processes in a row."""
    for name, one in found.items():
        if one.problem:
            row.absent[name] = one.problem
        else:
            note = notes.get(name, "")
            loss = f"loss after the first turn {one.first_loss:.4f}"
            row.values[name] = value(one.seconds, scale, f"{note}; {loss}" if note else loss)
    return row


def memory(key: str, title: str, found: Mapping[str, Measured]) -> Row:
    """Return the row of the peak memory of the same worker processes."""
    row = Row(key, title, "MiB", "less", asked=1 / 1.1)
    row.how = "Largest resident memory of the worker process, with the imports (`ru_maxrss`)."
    row.values = {n: Value(one.peak_mb) for n, one in found.items() if not one.problem}
    return row


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
        for seed in range(1 if setting.tiny else 3):
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
        for k in range(1 if setting.tiny else 2):
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


def start(setting: Setting) -> list[Row]:
    """Time to the first step, of programs that do the same."""
    row = Row("first_step", "Command to the end of the first step", "s", "less")
    row.how = (
        "Two domains of 600 digits as PNG files, DANN (fastai without adaptation), batches of 64 + "
        "64. The programs are in `benchmarks/peers/programs/`."
    )
    found: dict[str, list[float]] = {}
    with trainings(setting) as (root, place, usable):
        for k in range(1 if setting.tiny else 3):
            for peer, title in usable.items():
                if title in row.absent:
                    continue
                folder = place / f"{peer}-{k}"
                folder.mkdir()
                command = command_of(setting, peer, root, folder)
                try:
                    seconds = commands.first_step(command, folder, setting.threads)
                except RuntimeError as problem:
                    row.absent[title] = str(problem)
                    continue
                found.setdefault(title, []).append(seconds)
    row.values = {name: value(seconds) for name, seconds in found.items()}
    row.absent.update(setting.absent(list(commands.PROGRAMS)), timm=NO_PROGRAM)
    return [row, digits(setting), lines()]


def resume(setting: Setting) -> list[Row]:
    """Kill a training, and see at which epoch the same command continues."""
    row = Row("resume", "Killed after three of four epochs, repeated", "epochs kept", "more")
    row.how = (
        "SIGKILL when the third of four epochs has ended; epochs that the repeated command did not "
        "train again. Programs use what the library offers for this; plain torch and the hooks of "
        "pytorch-adapt offer nothing."
    )
    with trainings(setting) as (root, place, usable):
        for peer, title in usable.items():
            folder = place / peer
            folder.mkdir()
            command = command_of(setting, peer, root, folder)
            kept = commands.try_resume(command, folder, setting.threads)
            if kept < 0:
                row.absent[title] = "the program failed"
            else:
                row.values[title] = Value(kept)
    row.absent.update(setting.absent(list(commands.PROGRAMS)), timm=NO_PROGRAM)
    return [row]


@contextlib.contextmanager
def trainings(setting: Setting) -> Iterator[tuple[Path, Path, dict[str, str]]]:
    """Give a folder of two domains, a folder to work in, and the titles of the libraries."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        root = commands.domains(place / "digits", 200 if setting.tiny else 600)
        titles = {peer: PEERS[peer].title for peer in setting.usable(list(commands.PROGRAMS))}
        yield root, place, {**titles, OURS: OURS}


def command_of(setting: Setting, peer: str, root: Path, folder: Path) -> list[str]:
    """Return the command of a training with one of the libraries."""
    if peer == OURS:
        return commands.own_command(root, folder / "run")
    return commands.program(peer, setting.environments[peer].python, root, folder)


def digits(setting: Setting) -> Row:
    """Time from the default command to its first step."""
    row = Row("digits", "tl-train on digits: first step", "s", "less", 10.0, absolute=True)
    row.how = "`tl-train` without settings, to the end of the first step."
    seconds = []
    for _ in range(1 if setting.tiny else setting.rounds):
        with tempfile.TemporaryDirectory() as folder:
            command = [
                sys.executable, str(REPO / "scripts" / "train.py"), f"hydra.run.dir={folder}/run",
                "+callbacks.shown._target_=benchmarks.peers.programs.own_steps.Shown",
                "allow=[benchmarks]",
            ]  # fmt: skip
            seconds.append(commands.first_step(command, Path(folder), setting.threads))
    row.values = {OURS: value(seconds)}
    return row


def lines() -> Row:
    """Count the lines of the programs."""
    row = Row("lines", "Lines that a user writes for DANN on own folders", "lines", "less")
    row.how = (
        "Of the programs in `benchmarks/peers/programs/`, without blank lines, comments and the "
        "network; ours is one command with four settings."
    )
    here = Path(__file__).parent / "programs"
    for peer, name in commands.PROGRAMS.items():
        text = (here / f"{name}.py").read_text()
        note = NO_ADAPTATION if peer == "fastai" else ""
        row.values[PEERS[peer].title] = Value(commands.lines_of(text), 0, 0, note)
    row.values[OURS] = Value(1, 0, 0, "also a report, calibration, selection without labels")
    return row


def quick(setting: Setting) -> list[Row]:
    """Import, help, and the refusal of an invalid configuration."""
    script = str(REPO / "scripts" / "train.py")
    imports = Row("import", "Import", "s", "less", 0.2, absolute=True)
    imports.how = "Interpreter start and import of what a program needs first; ours is lazy."
    ours = [sys.executable, "-c", "import tl_lightning"]
    every = {OURS: ours}
    for name, environment in setting.usable(list(PEERS)).items():
        every[PEERS[name].title] = [str(environment.python), "-c", f"import {PEERS[name].module}"]
    titles = {peer.title for peer in PEERS.values()}
    imports.absent = setting.absent(list(PEERS))
    rows = [imports]
    alone = {
        "help": ("tl-train --help", 1.2, ["--help"]),
        "typo": ("tl-train with an unknown setting", 2.0, ["modle=dann"]),
        "conflict": ("tl-train with settings that contradict", 2.0, ["data.target=null"]),
    }
    for key, (title, asked, arguments) in alone.items():
        row = Row(key, title, "s", "less", asked, absolute=True)
        every[key] = [sys.executable, script, *arguments]
        rows.append(row)
    found: dict[str, list[float]] = {name: [] for name in every}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1 if setting.tiny else setting.rounds + 1):
            for name, command in every.items():
                # Imports of peers take up to half a minute: three counted repetitions of them.
                if name in titles and number > 3:
                    continue
                found[name].append(_ended(command, Path(folder), setting.threads))
    for name, durations in found.items():
        seconds = durations[1:] or durations
        row = next((one for one in rows if one.key == name), imports)
        row.values[name if row is imports else OURS] = value(seconds)
    return rows


def _ended(command: Sequence[str], cwd: Path, threads: int) -> float:
    """Return the duration of a command that may end with an error."""
    started = time.perf_counter()
    environment = commands.environment(threads)
    subprocess.run(command, cwd=cwd, env=environment, capture_output=True, check=False)
    return time.perf_counter() - started


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
    "dann": dann, "full": full, "quick": quick, "start": start, "resume": resume,
    "pipeline": pipeline, "frozen": frozen, "heads": heads,
}  # fmt: skip
