"""Runs that are killed at random moments and resumed: does each end as if nothing had been?

    python benchmarks/fault_drill.py --runs 30 --out drill.json

A run is the real thing, `training.fit` on small digits in a process of its own, forked from this
one (which has imported everything and computed nothing) to save the start-up. It gets SIGKILL one
to three times, each time at a moment that is drawn:

random   at a random second of what the uninterrupted run took
write    while a checkpoint is being written: its draft lies beside its place
cache    while features are being stored: their draft lies in the cache (of the runs that have one)

After each kill it is started again with resume=auto, and at last left to finish. Two kinds of runs
take turns: DANN, and a head on a frozen backbone's stored features, each with its own empty cache.

Counted: final checkpoints equal to the uninterrupted run's bit for bit (weights, optimizer,
schedule, progress, scores), test figures and metrics.csv equal, checkpoints found broken, and the
optimizer steps that a kill cost (those done when it came, less those in the checkpoint that was
resumed).

Then the full disk: a run on a file system too small for it has to end with a sentence and whole
checkpoints, and, given room, to end as the uninterrupted one. Needs leave to mount a tmpfs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import lightning as L
import torch
from omegaconf import OmegaConf

from tl_lightning.checkpoints.io import read_checkpoint
from tl_lightning.config.compose import compose
from tl_lightning.errors import CheckpointError
from tl_lightning.training import fit as training

SMALL = (
    "data=digits", "data.size=16", "data.batch_size=16", "data.steps_per_epoch=12",
    "data.target_copies=1", "backbone.size=16", "backbone.widths=[4,8]", "backbone.features=16",
    "trainer=cpu", "trainer.precision=32-true", "trainer.deterministic=true", "bracket=[]",
    "trainer.max_epochs=6", "callbacks.health.patience=100", "report.samples=60",
    "report.examples=4", "selection=bnm", "checkpoint.min_seconds=0", "checkpoint.every_n_steps=4",
)  # fmt: skip
KINDS = {
    "dann": ("model=dann",),
    "features": (
        "model=feature_extraction", "data.augment=none", "cache.features=full",
        "selection=source_val",
    ),
}  # fmt: skip


class Steps:
    """A number of optimizer steps that a killed process leaves behind."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 8)

    def set(self, number: int) -> None:
        self.memory[:8] = struct.pack("q", number)

    def get(self) -> int:
        return struct.unpack("q", self.memory[:8])[0]


class Count(L.Callback):
    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.steps.set(trainer.global_step)


def configuration(kind: str) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(
        compose([*SMALL, *KINDS[kind], "resume=auto"]), resolve=True
    )
    return plain


def start(config: dict[str, Any], folder: Path, steps: Steps) -> int:
    """Fork a process that fits; return its number."""
    folder.mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ["TL_CACHE"] = str(folder / "cache")
        torch.set_num_threads(1)
        honest = training.build

        def build(*arguments: Any) -> Any:
            parts = honest(*arguments)
            parts.trainer.callbacks.insert(0, Count(steps))
            return parts

        training.build = build
        try:
            training.fit(config, folder / "run")
            code = 0
        except CheckpointError as error:
            print(f"error: {error}", flush=True)
            code = error.exit_code
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def finished(config: dict[str, Any], folder: Path, steps: Steps) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(start(config, folder, steps), 0)[1])


def seen(folder: Path, drafts: str | None) -> set[Path]:
    """Return the drafts that lie there; one that gets its name meanwhile is looked for again."""
    while drafts:
        with contextlib.suppress(FileNotFoundError):
            return set(folder.glob(drafts))
    return set()


def kill(child: int, folder: Path, how: str, seconds: float, draw: random.Random) -> bool:
    """Kill the process at its moment; return whether it came before the end."""
    until = time.monotonic() + draw.uniform(0.0, seconds)
    drafts = {"write": "run/checkpoints/.*.tmp", "cache": "cache/**/*.tmp*"}.get(how)
    known = seen(folder, drafts)
    skip = draw.randrange(6) if how == "write" else 0
    limit = time.monotonic() + 3 * seconds
    while time.monotonic() < limit:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        if drafts:
            now = seen(folder, drafts)
            skip, known = skip - len(now - known), now
            if skip < 0:
                break
        elif time.monotonic() >= until:
            break
        time.sleep(0.0005 if drafts else 0.005)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def stands(folder: Path) -> tuple[int, int]:
    """Return the steps in the checkpoint that a resumed run takes, and how many are broken."""
    broken, best = 0, 0
    for path in (folder / "run" / "checkpoints").glob("*.ckpt"):
        try:
            best = max(best, int(read_checkpoint(path)["global_step"]))
        except CheckpointError:
            broken += 1
    return best, broken


def plain(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {plain(k, folder): plain(v, folder) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, folder) for item in value]
    if isinstance(value, torch.Tensor):
        return str(value.dtype), value.tolist()
    return value.replace(str(folder.resolve()), "") if isinstance(value, str) else value


def outcome(folder: Path) -> dict[str, Any]:
    run = folder / "run"
    report = json.loads((run / "report.json").read_text())
    chosen = report["selection"]["checkpoint"]
    stored = [read_checkpoint(run / name) for name in ("checkpoints/last.ckpt", chosen)]
    for one in stored:  # what was stored before the kill is not extracted again, nor counted
        one["loops"] = {"fit_loop": one["loops"]["fit_loop"]}
    return {
        "checkpoint": plain(stored[0], folder),
        "chosen": chosen,
        "kept": plain(stored[1], folder),
        "metrics": report["metrics"],
        "log": (run / "metrics.csv").read_text(),
    }


def different(one: Any, two: Any, path: str = "") -> list[str]:
    """Return where two outcomes differ."""
    if isinstance(one, dict) and isinstance(two, dict):
        keys = sorted({*map(str, one), *map(str, two)})
        pairs = [{str(k): v for k, v in side.items()} for side in (one, two)]
        return [p for k in keys for p in different(pairs[0].get(k), pairs[1].get(k), f"{path}/{k}")]
    return [] if one == two else [path]


def drill(args: argparse.Namespace, place: Path) -> dict[str, Any]:
    steps, draw = Steps(), random.Random(args.seed)
    configs = {kind: configuration(kind) for kind in KINDS}
    whole, took = {}, {}
    for kind, config in configs.items():
        begun = time.monotonic()
        assert finished(config, place / kind, steps) == 0, (place / kind / "log.txt").read_text()
        took[kind] = time.monotonic() - begun
        whole[kind] = outcome(place / kind)
    rows = []
    for number in range(args.runs):
        kind = list(KINDS)[number % len(KINDS)]
        folder, row = place / str(number), {"kind": kind, "kills": [], "broken": 0}
        ways = ["random", "write", *(["cache"] if kind == "features" else [])]
        wanted = draw.randint(1, 3)
        while len(row["kills"]) < wanted:
            how = draw.choice(ways)
            steps.set(0)
            child = start(configs[kind], folder, steps)
            if not kill(child, folder, how, took[kind], draw):
                if row["kills"]:
                    break
                shutil.rmtree(folder)  # quicker than the uninterrupted one: no drill, so again
                continue
            kept, broken = stands(folder)
            lost = max(0, steps.get() - kept)
            row["kills"].append({"how": how, "at": steps.get(), "kept": kept, "lost": lost})
            row["broken"] += broken
        code = finished(configs[kind], folder, steps)
        found = outcome(folder) if code == 0 else {}
        row |= {"code": code, "same": {k: found.get(k) == v for k, v in whole[kind].items()}}
        if code == 0:
            row["differs"] = different(whole[kind], found)
        rows.append(row)
        ways_seen = ", ".join(f"{k['how']} at {k['at']}, {k['lost']} lost" for k in row["kills"])
        verdict = row.get("differs") or ("the same" if code == 0 else f"ended with {code}")
        print(f"{number} {kind}: {ways_seen or 'finished first'}: {verdict}", flush=True)
    return summary(rows, took)


def summary(rows: list[dict[str, Any]], took: dict[str, float]) -> dict[str, Any]:
    kills = [kill for row in rows for kill in row["kills"]]
    lost = [kill["lost"] for kill in kills if kill["at"]]
    return {
        "runs": len(rows),
        "killed": sum(bool(row["kills"]) for row in rows),
        "kills": {how: sum(k["how"] == how for k in kills) for how in ("random", "write", "cache")},
        "kills_before_the_first_step": sum(not kill["at"] for kill in kills),
        "finished": sum(row["code"] == 0 for row in rows),
        "identical": sum(row["code"] == 0 and all(row["same"].values()) for row in rows),
        "checkpoints_found_broken": sum(row["broken"] for row in rows),
        "steps_lost": {"most": max(lost, default=0), "median": median(lost) if lost else 0},
        "steps_between_checkpoints": 4,
        "seconds_uninterrupted": took,
        "rows": rows,
    }


def full_disk(place: Path) -> dict[str, Any]:
    """Let a run fill a small file system, then give it room."""
    steps, config, disk = Steps(), configuration("dann"), place / "disk"
    disk.mkdir()
    used = sum(p.stat().st_size for p in (place / "dann").rglob("*") if p.is_file()) // 1024
    options = ["mount", "-t", "tmpfs", "-o"]
    size = used * 2 // 3
    mounted = subprocess.run(
        [*options, f"size={size}k", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        return {"not_run": mounted.stderr.strip()}
    try:
        code = finished(config, disk, steps)
        said = (disk / "log.txt").read_text().splitlines()
        kept, broken = stands(disk)
        subprocess.run([*options, "remount,size=1g", "tmpfs", str(disk)], check=True)
        again = finished(config, disk, steps)
        same = again == 0 and outcome(disk) == outcome(place / "dann")
        sentence = next((line for line in said if line.startswith("error: ")), "")
        return {
            "kilobytes": size, "code": code, "said": sentence.replace(str(place), ""),
            "broken": broken, "steps_kept": kept, "finished_with_room": again == 0,
            "identical": same,
        }  # fmt: skip
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = drill(args, Path(folder))
        found["full_disk"] = full_disk(Path(folder))
    if args.out:
        args.out.write_text(json.dumps(found, indent=2) + "\n")
    found.pop("rows")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
