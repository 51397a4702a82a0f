"""Kill runs at random moments, resume them, and compare the results with uninterrupted runs.

    python benchmarks/interruption_drill.py --runs 30 --out drill.json

A run is a regular `training.fit` on small digits in its own process, forked from this one (which
has imported everything but computed nothing) to save the start-up time. It receives SIGKILL one to
three times, each time at a randomly drawn moment:

random   at a random time within the duration of the uninterrupted run
write    while a checkpoint is being written: its temporary file exists
cache    while features are being cached: their temporary files exist (only runs with a cache)

After each kill the run is resumed with resume=auto, and finally left to finish. Two kinds of runs
alternate: DANN, and a head on cached features of a frozen backbone, each with its own empty cache.

Counted are final checkpoints that are bit-identical to those of the uninterrupted run (weights,
optimizer, schedule, progress, scores), equal test metrics and metrics.csv, broken checkpoints, and
the optimizer steps lost by a kill (steps completed at that time minus steps in the checkpoint that
is resumed).

Finally, a run on a file system that is too small for it must end with an error message and intact
checkpoints, and, after the file system has been enlarged, must give the result of the
uninterrupted run. This needs permission to mount a tmpfs.
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
    "trainer=cpu", "trainer.precision=32-true", "trainer.deterministic=true", "baselines=[]",
    "trainer.max_epochs=6", "callbacks.adversary_monitor.patience=100", "report.samples=60",
    "report.examples=4", "selection=bnm", "checkpointing.min_seconds=0",
    "checkpointing.every_n_steps=4",
)  # fmt: skip
KINDS = {
    "dann": ("model=dann",),
    "features": (
        "model=feature_extraction", "data.augment=none", "cache.features=full",
        "selection=source_val",
    ),
}  # fmt: skip


class Steps:
    """Number of optimizer steps in shared memory, readable after the process was killed."""

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
    """Fork a process that runs the training; return its process id."""
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
        original = training.build

        def build(*arguments: Any) -> Any:
            parts = original(*arguments)
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


def run_to_end(config: dict[str, Any], folder: Path, steps: Steps) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(start(config, folder, steps), 0)[1])


def temporary_files(folder: Path, pattern: str | None) -> set[Path]:
    """Return the matching files; repeat the search if one is renamed meanwhile."""
    while pattern:
        with contextlib.suppress(FileNotFoundError):
            return set(folder.glob(pattern))
    return set()


def kill(child: int, folder: Path, how: str, seconds: float, rng: random.Random) -> bool:
    """Kill the process at a random moment; return whether it was still running."""
    until = time.monotonic() + rng.uniform(0.0, seconds)
    pattern = {"write": "run/checkpoints/.*.tmp", "cache": "cache/**/*.tmp*"}.get(how)
    known = temporary_files(folder, pattern)
    skip = rng.randrange(6) if how == "write" else 0
    limit = time.monotonic() + 3 * seconds
    while time.monotonic() < limit:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        if pattern:
            now = temporary_files(folder, pattern)
            skip, known = skip - len(now - known), now
            if skip < 0:
                break
        elif time.monotonic() >= until:
            break
        time.sleep(0.0005 if pattern else 0.005)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def checkpoint_steps(folder: Path) -> tuple[int, int]:
    """Return the steps in the checkpoint to resume from, and the number of broken checkpoints."""
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
    for state in stored:  # cached features are not extracted again, so the predict loop differs
        state["loops"] = {"fit_loop": state["loops"]["fit_loop"]}
    return {
        "checkpoint": plain(stored[0], folder),
        "chosen": chosen,
        "kept": plain(stored[1], folder),
        "metrics": report["metrics"],
        "log": (run / "metrics.csv").read_text(),
    }


def different(one: Any, two: Any, path: str = "") -> list[str]:
    """Return the paths at which two outcomes differ."""
    if isinstance(one, dict) and isinstance(two, dict):
        keys = sorted({*map(str, one), *map(str, two)})
        pairs = [{str(k): v for k, v in side.items()} for side in (one, two)]
        return [p for k in keys for p in different(pairs[0].get(k), pairs[1].get(k), f"{path}/{k}")]
    return [] if one == two else [path]


def drill(args: argparse.Namespace, root: Path) -> dict[str, Any]:
    steps, rng = Steps(), random.Random(args.seed)
    configs = {kind: configuration(kind) for kind in KINDS}
    expected, durations = {}, {}
    for kind, config in configs.items():
        started = time.monotonic()
        assert run_to_end(config, root / kind, steps) == 0, (root / kind / "log.txt").read_text()
        durations[kind] = time.monotonic() - started
        expected[kind] = outcome(root / kind)
    rows = []
    for number in range(args.runs):
        kind = list(KINDS)[number % len(KINDS)]
        folder, row = root / str(number), {"kind": kind, "kills": [], "broken": 0}
        modes = ["random", "write", *(["cache"] if kind == "features" else [])]
        num_kills = rng.randint(1, 3)
        while len(row["kills"]) < num_kills:
            how = rng.choice(modes)
            steps.set(0)
            child = start(configs[kind], folder, steps)
            if not kill(child, folder, how, durations[kind], rng):
                if row["kills"]:
                    break
                shutil.rmtree(folder)  # finished before the first kill: try again
                continue
            kept, broken = checkpoint_steps(folder)
            lost = max(0, steps.get() - kept)
            row["kills"].append({"how": how, "at": steps.get(), "kept": kept, "lost": lost})
            row["broken"] += broken
        code = run_to_end(configs[kind], folder, steps)
        result = outcome(folder) if code == 0 else {}
        row |= {"code": code, "same": {k: result.get(k) == v for k, v in expected[kind].items()}}
        if code == 0:
            row["differs"] = different(expected[kind], result)
        rows.append(row)
        kills = ", ".join(f"{k['how']} at {k['at']}, {k['lost']} lost" for k in row["kills"])
        verdict = row.get("differs") or ("identical" if code == 0 else f"exit code {code}")
        print(f"{number} {kind}: {kills or 'no kill'}: {verdict}", flush=True)
    return summary(rows, durations)


def summary(rows: list[dict[str, Any]], durations: dict[str, float]) -> dict[str, Any]:
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
        "seconds_uninterrupted": durations,
        "rows": rows,
    }


def full_disk(root: Path) -> dict[str, Any]:
    """Let a run fill a small file system, then enlarge the file system and resume."""
    steps, config, disk = Steps(), configuration("dann"), root / "disk"
    disk.mkdir()
    used = sum(p.stat().st_size for p in (root / "dann").rglob("*") if p.is_file()) // 1024
    options = ["mount", "-t", "tmpfs", "-o"]
    size = used * 2 // 3
    mounted = subprocess.run(
        [*options, f"size={size}k", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        return {"not_run": mounted.stderr.strip()}
    try:
        code = run_to_end(config, disk, steps)
        log = (disk / "log.txt").read_text().splitlines()
        kept, broken = checkpoint_steps(disk)
        subprocess.run([*options, "remount,size=1g", "tmpfs", str(disk)], check=True)
        resumed = run_to_end(config, disk, steps)
        same = resumed == 0 and outcome(disk) == outcome(root / "dann")
        message = next((line for line in log if line.startswith("error: ")), "")
        return {
            "kilobytes": size, "code": code, "message": message.replace(str(root), ""),
            "broken": broken, "steps_kept": kept, "finished_when_enlarged": resumed == 0,
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
        results = drill(args, Path(folder))
        results["full_disk"] = full_disk(Path(folder))
    if args.out:
        args.out.write_text(json.dumps(results, indent=2) + "\n")
    results.pop("rows")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
