"""Measures what happens before and around a training: commands, imports, first step, resuming."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.peers import commands
from benchmarks.peers.environments import PEERS
from benchmarks.peers.rounds import REPO
from benchmarks.peers.rows import OURS, Row, Value
from benchmarks.peers.setting import NO_ADAPTATION, Setting, value

__all__ = ["imports", "own_commands", "resume", "start"]

NO_PROGRAM = "its train.py is not in its distribution"


def start(setting: Setting) -> list[Row]:
    """Time to the first step, of programs that do the same."""
    row = Row("first_step", "Command to the end of the first step", "s", "less")
    row.how = (
        "Two domains of 600 digits as PNG files, DANN (fastai without adaptation), batches of 64 + "
        "64. The programs are in `benchmarks/peers/programs/`."
    )
    found: dict[str, list[float]] = {}
    with trainings(setting) as (root, place, usable):
        for k in setting.repetitions():
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
    for _ in setting.repetitions():
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
        "network; that of tl_lightning is one command with four settings."
    )
    here = Path(__file__).parent / "programs"
    for peer, name in commands.PROGRAMS.items():
        text = (here / f"{name}.py").read_text()
        note = NO_ADAPTATION if peer == "fastai" else ""
        row.values[PEERS[peer].title] = Value(commands.lines_of(text), 0, 0, note)
    row.values[OURS] = Value(1, 0, 0, "also a report, calibration, selection without labels")
    return row


def own_commands(setting: Setting) -> list[Row]:
    """Measure what a user waits for before there is anything to train."""
    script = str(REPO / "scripts" / "train.py")
    found: dict[str, list[float]] = {key: [] for key in ALONE}
    with tempfile.TemporaryDirectory() as folder:
        for number in setting.repetitions(setting.rounds + 1):
            for key, (_, _, arguments) in ALONE.items():
                seconds = _ended([sys.executable, script, *arguments], Path(folder), setting)
                if number or setting.tiny:  # the first time, files are read from the disk
                    found[key].append(seconds)
    rows = []
    for key, (title, asked, _) in ALONE.items():
        row = Row(key, title, "s", "less", asked, absolute=True)
        row.values = {OURS: value(found[key])}
        rows.append(row)
    return rows


#: Title, seconds asked for and arguments of commands that train nothing.
ALONE = {
    "help": ("tl-train --help", 1.2, ["--help"]),
    "typo": ("tl-train with an unknown setting", 2.0, ["modle=dann"]),
    "conflict": ("tl-train with settings that contradict", 2.0, ["data.target=null"]),
}


def imports(setting: Setting) -> list[Row]:
    row = Row("import", "Import", "s", "less", 0.2, absolute=True)
    row.how = "Interpreter start and import of what a program needs first; tl_lightning's is lazy."
    commands_of = {OURS: [sys.executable, "-c", "import tl_lightning"]}
    for name, environment in setting.usable(list(PEERS)).items():
        peer = PEERS[name]
        commands_of[peer.title] = [str(environment.python), "-c", f"import {peer.module}"]
    found: dict[str, list[float]] = {name: [] for name in commands_of}
    with tempfile.TemporaryDirectory() as folder:
        for _ in setting.repetitions():
            for name, command in commands_of.items():
                found[name].append(_ended(command, Path(folder), setting))
    row.values = {name: value(seconds) for name, seconds in found.items()}
    row.absent = setting.absent(list(PEERS))
    return [row]


def _ended(command: Sequence[str], cwd: Path, setting: Setting) -> float:
    """Return the duration of a command that may end with an error."""
    started = time.perf_counter()
    environment = commands.environment(setting.threads)
    subprocess.run(command, cwd=cwd, env=environment, capture_output=True, check=False)
    return time.perf_counter() - started
