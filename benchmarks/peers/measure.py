"""Measures the rows of the page, one function each."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
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
    """Measure the worker processes of ours and of the peers in turns."""
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
    steps = 2 if setting.tiny else 20
    found = compete(setting, "dann", peers, steps)
    row = Row("dann", "DANN: a training step", "ms", "less", asked=2.0)
    row.how = (
        f"Batches of 64 + 64 random images of 28 x 28 pixels in memory, three blocks of convolution, "
        f"batch norm and pooling (32, 64, 128), a discriminator with two layers of 512, Adam; "
        f"turns of {steps} steps. The same initial weights; losses agree where the definition is "
        f"the same (`benchmarks/peer_losses.py` compares gradients)."
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
    steps = 1 if setting.tiny else 2
    found = compete(setting, "full", peers, steps)
    row = Row("full", "Full fine-tuning: a step", "images/s", "more", asked=3.0)
    row.how = (
        "resnet18 from the same random weights, batches of 32 random images of 224 x 224 pixels in "
        f"memory, with scaling and normalisation; turns of {steps} steps; optimizers are the "
        "defaults of each."
    )
    row.absent = setting.absent(peers)
    filled(row, found, 1.0, {})
    for one in row.values.values():
        one.median = steps * 32 / one.median
    return [row, memory("full_memory", "Full fine-tuning: peak memory", found)]


def frozen(setting: Setting) -> list[Row]:
    """Compare a study of 50 epochs; the epochs of the peers are calculated from some batches."""
    if setting.data is None:
        return []
    peers = ("torch", "timm", "fastai")
    steps, epochs = (1, 2) if setting.tiny else (3, 50)
    found = compete(setting, "frozen", peers, steps, str(setting.data / "train"))
    counts = [sum(1 for _ in (setting.data / part).rglob("*.jpg")) for part in ("train", "test")]
    own = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(1 if setting.tiny else 3):
            overrides = [f"seed={seed}", f"trainer.max_epochs={epochs}"]
            own.append(
                commands.study(setting.data, Path(folder) / str(seed), setting.threads, overrides)
            )
    rows = []
    for key, title, asked in (
        ("inside", "Frozen network, 50 epochs: training", 100.0),
        ("command", "Frozen network, 50 epochs: whole command", 40.0),
    ):
        row = Row(f"frozen_{key}", title, "s", "less", asked)
        row.how = (
            f"{counts[0]:,} training and {counts[1]:,} test images, MobileNetV2 with ImageNet "
            f"weights, {epochs} epochs of a linear head, no augmentation. Peers pass every image "
            f"through the network in every epoch; {epochs} epochs are calculated from turns of "
            f"{steps} batches of 32. Images are read by the process that trains, also by ours."
        )
        if key == "command":
            row.how += " The peers' test is calculated from the same turns, without start-up."
        images = counts[0] * epochs + (counts[1] if key == "command" else 0)
        for name, one in found.items():
            if one.problem:
                row.absent[name] = one.problem
            else:
                row.values[name] = value(one.seconds, images / (steps * 32), "calculated")
        accuracy = median(run["accuracy"] for run in own)
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
    with tempfile.TemporaryDirectory() as folder:
        for k in range(1 if setting.tiny else 2):
            for found, more in ((one, []), (eight, grid)):
                place = Path(folder) / f"{k}-{len(more)}"
                run = commands.study(setting.data, place, setting.threads, [*more, *common])
                found.append(run["command"])
    row = Row("heads", "Eight heads in one sweep, in times of one", "times", "less", 1.5)
    row.absolute = True
    row.how = (
        f"The whole commands on the same data, {epochs.split('=')[1]} epochs in batches of 128: one "
        f"head {median(one):.1f} s, eight {median(eight):.1f} s."
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
    resume = Row("resume", "Killed in the third epoch, the same command repeated", "epochs kept",
                 "more")  # fmt: skip
    resume.how = (
        "SIGKILL after the third of four epochs; epochs that the repeated command did not train "
        "again. Programs use what the library offers for this; plain torch and the hooks of "
        "pytorch-adapt offer nothing."
    )
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        root = commands.domains(place / "digits", 100 if setting.tiny else 600)
        found: dict[str, list[float]] = {}
        usable = setting.usable(list(commands.PROGRAMS))
        for k in range(1 if setting.tiny else setting.rounds):
            for peer in (*usable, OURS):
                folder = place / f"{peer}-{k}"
                folder.mkdir()
                title = PEERS[peer].title if peer in PEERS else OURS
                command = _command(setting, peer, root, folder)
                if title in row.absent:
                    continue
                try:
                    seconds = commands.first_step(command, folder, setting.threads)
                except RuntimeError as problem:
                    row.absent[title] = str(problem)
                    continue
                found.setdefault(title, []).append(seconds)
        row.values = {name: value(seconds) for name, seconds in found.items()}
        for peer in (*usable, OURS):
            title = PEERS[peer].title if peer in PEERS else OURS
            folder = place / f"{peer}-resume"
            folder.mkdir()
            command = _command(setting, peer, root, folder)
            kept = commands.try_resume(command, folder, setting.threads)
            if kept < 0:
                resume.absent[title] = "the program failed"
            else:
                resume.values[title] = Value(kept)
    missing = {**setting.absent(list(commands.PROGRAMS)), "timm": "its train.py is not in its wheel"}
    for one in (row, resume):
        one.absent = {**missing, **one.absent}
    return [row, resume, digits(setting), lines(setting)]


def _command(setting: Setting, peer: str, root: Path, folder: Path) -> list[str]:
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


def lines(setting: Setting) -> Row:
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
    """Import, help, and the refusal of a faulty configuration."""
    script = str(REPO / "scripts" / "train.py")
    imports = Row("import", "Import", "s", "less", 0.2, absolute=True)
    imports.how = "Interpreter start and import of what a program needs first; ours is lazy."
    ours = [sys.executable, "-c", "import tl_lightning"]
    every = {OURS: ours}
    for name, environment in setting.usable(list(PEERS)).items():
        every[PEERS[name].title] = [str(environment.python), "-c", f"import {PEERS[name].module}"]
    imports.absent = setting.absent(list(PEERS))
    rows = [imports]
    alone = {
        "help": ("tl-train --help", 1.2, ["--help"]),
        "typo": ("tl-train with an unknown setting", 2.0, ["modle=dann"]),
        "faulty": ("tl-train with settings that contradict", 2.0, ["data.target=null"]),
    }
    for key, (title, asked, arguments) in alone.items():
        row = Row(key, title, "s", "less", asked, absolute=True)
        every[key] = [sys.executable, script, *arguments]
        rows.append(row)
    found: dict[str, list[float]] = {name: [] for name in every}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(1 if setting.tiny else setting.rounds + 1):
            for name, command in every.items():
                found[name].append(_ended(command, Path(folder), setting.threads))
    counted = {name: seconds[1:] or seconds for name, seconds in found.items()}
    for name, seconds in counted.items():
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
    "dann": dann, "full": full, "quick": quick, "start": start, "pipeline": pipeline,
    "frozen": frozen, "heads": heads,
}  # fmt: skip
