"""Interrupt commands at random moments, repeat them, and compare with uninterrupted runs.

    python benchmarks/interruption_drill.py --runs 100 --out drill.json

A run is a command on a small dataset in its own process, forked from this one (which has imported
everything but computed nothing) to save the start-up time. It is interrupted one to three times,
each time at a randomly drawn moment; then the same command is repeated, and finally left to finish:

random   SIGKILL at a random time within the duration of the uninterrupted run
signal   SIGTERM or Ctrl-C at a random time
write    SIGKILL while a checkpoint is being written: its temporary file exists
cache    SIGKILL while images, features or tokens are being cached: their temporary files exist
report   SIGKILL while predictions, report.json, report.html, figures or tables are being written
output   SIGKILL while the files given by out= are being written

The kinds of runs alternate, each with its own empty cache (see KINDS): DANN, a head on cached
features of a frozen backbone, a sweep of two seeds, a tuning study, feature extraction, texts, a
command that ends with the page of its run, and prediction.

Counted are runs whose results are identical to those of the uninterrupted run: final checkpoints
bit for bit (weights, optimizer, schedule, progress, scores), test metrics, metrics.csv, tables,
trials, extracted features, tokens, predictions. Also counted: files found broken after a kill,
temporary files left behind at the end, exit codes other than those of interrupted commands, and
the optimizer steps lost by a kill (steps completed at that time minus steps in the checkpoint that
is resumed).

Finally, a run on a file system that is too small for it must end with an error message and intact
checkpoints, and, after the file system has been enlarged, must give the result of the
uninterrupted run. This needs permission to mount a tmpfs.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import json
import mmap
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import lightning as L
import numpy as np
import optuna
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors import safe_open
from sklearn.datasets import load_digits

import tl_lightning.evaluation.load
import tl_lightning.sweeps.baselines
import tl_lightning.sweeps.hydra_callback
import tl_lightning.sweeps.tuning.study  # noqa: F401  imported before the processes are forked
from tiny_texts import reviews, text_config, tiny_bert
from tl_lightning.checkpoints.io import read_checkpoint
from tl_lightning.cli.extract_features import extract
from tl_lightning.cli.predict import predict
from tl_lightning.cli.train import train
from tl_lightning.cli.tune import tune
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
MODEL = {
    "dann": ("model=dann",),
    "features": (
        "model=feature_extraction", "data.augment=none", "cache.features=full",
        "selection=source_val",
    ),
}  # fmt: skip
#: Files that exist while something is being written, relative to the folder of a run.
FILES = {
    "write": re.compile(r"run/(.*/)?checkpoints/\..*\.tmp"),
    "cache": re.compile(r"cache/.*\.tmp"),
    "report": re.compile(
        r"run/(.*/)?(figures/\..*\.tmp|\.(report|table|sweep|predictions)\..*\.tmp|.*\.tmp\.npz)"
    ),
    "output": re.compile(
        r"run/\.features\..*\.tmp/.|run/(\.predictions\.csv\.draft/.+|predictions\.csv)"
    ),
}
#: Exit codes of an interrupted command; a negative one is that of a signal without a handler.
INTERRUPTED = (130, 143, -signal.SIGTERM)


@dataclass(frozen=True)
class Kind:
    """A kind of run.

    Attributes:
        work: What the process does in the folder of a run.
        outcome: Returns the results in that folder in comparable form.
        modes: The moments at which it may be killed, besides random ones.
        one: Whether it is one training with checkpoints, whose lost steps are counted.
        result: What appears last, in one rename; the command is not repeated then, as it refuses
            to replace it.
    """

    work: Callable[[Path], Any]
    outcome: Callable[[Path], dict[str, Any]]
    modes: tuple[str, ...]
    one: bool = True
    result: str = ""

    def is_done(self, folder: Path) -> bool:
        return bool(self.result) and (folder / self.result).exists()


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
        compose([*SMALL, *MODEL[kind], "resume=auto"]), resolve=True
    )
    return plain


def fit(config: dict[str, Any]) -> Callable[[Path], Any]:
    return lambda folder: training.fit(config, folder / "run")


def command(function: Callable[[], Any], *arguments: str) -> Callable[[Path], None]:
    """Return a command as it would be typed, with its results in ``run`` of the current folder."""

    def work(folder: Path) -> None:
        os.chdir(folder)
        sys.argv = [f"{function.__name__}.py", *arguments]
        function()

    return work


def start(kind: Kind, folder: Path, steps: Steps) -> int:
    """Fork a process that does the work; return its process id."""
    (folder / "run").mkdir(parents=True, exist_ok=True)
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

        def build(*arguments: Any, **more: Any) -> Any:
            parts = original(*arguments, **more)
            parts.trainer.callbacks.insert(0, Count(steps))
            return parts

        training.build = build
        kind.work(folder)
        code = 0
    except CheckpointError as error:
        print(f"error: {error}", flush=True)
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        os._exit(code)


def run_to_end(kind: Kind, folder: Path, steps: Steps) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(start(kind, folder, steps), 0)[1])


def matching(folder: Path, pattern: re.Pattern[str] | None) -> set[str]:
    """Return the files of a run whose relative path matches."""
    if pattern is None:
        return set()
    names = (os.path.join(root, name) for root, _, files in os.walk(folder) for name in files)
    return {name for name in names if pattern.match(os.path.relpath(name, folder))}


def kill(
    child: int, folder: Path, how: str, seconds: float, rng: random.Random
) -> tuple[int, int] | None:
    """Interrupt the process at a random moment.

    Returns:
        The signal and the exit code; None if the process had ended before.
    """
    until = time.monotonic() + rng.uniform(0.0, seconds)
    number = rng.choice([signal.SIGTERM, signal.SIGINT]) if how == "signal" else signal.SIGKILL
    pattern = FILES.get(how)
    known = matching(folder, pattern)
    skip = {"write": rng.randrange(6), "report": rng.randrange(10)}.get(how, 0)
    limit = time.monotonic() + 3 * seconds
    while time.monotonic() < limit:
        if os.waitpid(child, os.WNOHANG)[0]:
            return None
        if pattern:
            now = matching(folder, pattern)
            skip, known = skip - len(now - known), known | now
            if skip < 0:
                break
        elif time.monotonic() >= until:
            break
        time.sleep(0.0005 if pattern else 0.005)
    os.kill(child, number)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return (number, code) if code else None


def is_broken(path: Path) -> bool:
    """Return whether a file that is not a temporary one cannot be read completely."""
    try:
        if path.suffix == ".ckpt":
            read_checkpoint(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".html":
            return not path.read_text().rstrip().endswith("</html>")
        elif path.suffix == ".png":
            return not path.read_bytes().endswith(b"IEND\xaeB`\x82")
        elif path.suffix == ".csv" and path.name != "metrics.csv":  # appended, cut when resumed
            return not path.read_text().endswith("\n")
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                return any(arrays[name] is None for name in arrays.files)
        elif path.suffix == ".safetensors":
            with safe_open(path, "pt") as tensors:
                return not list(tensors.keys())
    except Exception:
        return True
    return False


def broken_files(folder: Path) -> list[str]:
    """Return the files of a run that are broken and look complete."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    names = {path: path.relative_to(folder).as_posix() for path in files}
    return [name for path, name in names.items() if ".tmp" not in name and is_broken(path)]


def temporary_files(folder: Path) -> list[str]:
    """Return the temporary files and folders below a folder."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*.tmp*"))
    return sorted(name for name in found if name.count(".tmp") == 1)


def checkpoint_steps(folder: Path) -> int:
    """Return the steps in the checkpoint to resume from."""
    best = 0
    for path in (folder / "run" / "checkpoints").glob("*.ckpt"):
        with contextlib.suppress(CheckpointError):
            best = max(best, int(read_checkpoint(path)["global_step"]))
    return best


def plain(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {plain(k, folder): plain(v, folder) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, folder) for item in value]
    if isinstance(value, torch.Tensor):
        return str(value.dtype), value.tolist()
    return value.replace(str(folder.resolve()), "") if isinstance(value, str) else value


def outcome(folder: Path, run: Path | None = None) -> dict[str, Any]:
    """Return the results of one training, which is in ``folder/run`` unless ``run`` is given."""
    run = run or folder / "run"
    report = json.loads((run / "report.json").read_text())
    chosen = report["selection"]["checkpoint"]
    stored = [read_checkpoint(run / name) for name in ("checkpoints/last.ckpt", chosen)]
    for state in stored:  # cached features are not extracted again, so the predict loop differs
        state["loops"] = {"fit_loop": state["loops"]["fit_loop"]}
    with np.load(run / "predictions.npz") as arrays:
        predictions = {name: arrays[name].tolist() for name in arrays.files}
    return {
        "checkpoint": plain(stored[0], folder),
        "chosen": chosen,
        "kept": plain(stored[1], folder),
        "metrics": report["metrics"],
        "predictions": predictions,
        "log": (run / "metrics.csv").read_text(),
    }


def digests(folder: Path, pattern: str) -> dict[str, str]:
    """Return the hash of each file that matches."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.glob(pattern))}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in found.items()
        if path.is_file() and ".tmp" not in name
    }


def outcome_of_page(folder: Path) -> dict[str, Any]:
    """Return the results of a training with its page and figures."""
    return outcome(folder) | {"figures": digests(folder, "run/figures/*"), "pages": pages(folder)}


def outcome_of_texts(folder: Path) -> dict[str, Any]:
    return outcome(folder) | {"tokens": digests(folder, "cache/**/*.bin")}


def pages(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob("run/**/*.html"))


def outcome_of_jobs(folder: Path) -> dict[str, Any]:
    """Return the results of all jobs of a sweep or study, and its table."""
    jobs = sorted(path.parent for path in folder.glob("run/*/report.json"))
    with (folder / "run" / "table.csv").open(newline="") as file:
        table = [{k: v for k, v in row.items() if k != "minutes"} for row in csv.DictReader(file)]
    return {
        "jobs": {job.name: outcome(folder, job) for job in jobs},
        "figures": digests(folder, "run/**/figures/*"),
        "pages": pages(folder),
        "table": table,
    }


def outcome_of_study(folder: Path) -> dict[str, Any]:
    study = optuna.load_study(
        study_name="run", storage=f"sqlite:///{(folder / 'run' / 'study.db').resolve()}"
    )
    trials = [
        {"number": t.number, "state": t.state.name, "params": t.params, "values": t.values,
         "epochs": t.intermediate_values} for t in study.trials
    ]  # fmt: skip
    return outcome_of_jobs(folder) | {"trials": {str(t["number"]): t for t in trials}}


def outcome_of_features(folder: Path) -> dict[str, Any]:
    return digests(folder, "run/features/**/*")


def outcome_of_predictions(folder: Path) -> dict[str, Any]:
    return {"predictions": (folder / "run" / "predictions.csv").read_text()}


def different(one: Any, two: Any, path: str = "") -> list[str]:
    """Return the paths at which two outcomes differ."""
    if isinstance(one, dict) and isinstance(two, dict):
        keys = sorted({*map(str, one), *map(str, two)})
        pairs = [{str(k): v for k, v in side.items()} for side in (one, two)]
        return [p for k in keys for p in different(pairs[0].get(k), pairs[1].get(k), f"{path}/{k}")]
    return [] if one == two else [path]


def kinds(root: Path) -> dict[str, Kind]:
    """Return all kinds of runs; those that need data have it in ``root``."""
    data = root / "data"
    encoder = tiny_bert(data / "encoder")
    texts = text_config(
        encoder, "data=text_folder", f"data.root={reviews(data / 'texts', 500)}",
        "model=fine_tuning", "data.steps_per_epoch=12", "resume=auto",
    )  # fmt: skip
    texts["checkpointing"]["every_n_steps"] = 4
    (data / "images").mkdir()
    for number, pixels in enumerate(load_digits().images[:100]):
        image = Image.fromarray((pixels * 15).astype(np.uint8)).resize((16, 16))
        image.save(data / "images" / f"{number:03d}.png")
    short = ["trainer.max_epochs=2", "data.steps_per_epoch=6"]
    images = [s for s in SMALL if not s.startswith(("selection", "callbacks", "report"))]
    return {
        "dann": Kind(fit(configuration("dann")), outcome, ("write",)),
        "features": Kind(fit(configuration("features")), outcome, ("write", "cache")),
        "sweep": Kind(
            command(train, "-m", *SMALL, *short, "model=dann", "seed=0,1", "hydra.sweep.dir=run"),
            outcome_of_jobs, ("write", "cache", "report"), one=False,
        ),
        "tune": Kind(
            command(
                tune, *SMALL, *short, "model=dann", "optimizer.lr=log(1e-4,1e-1)",
                "data.batch_size=choice(8,16)", "tune.trials=3", "tune.random_trials=1",
                "tune.prune_after=0", "tune.dir=run",
            ),
            outcome_of_study, ("write", "report"), one=False,
        ),
        "extraction": Kind(
            command(extract, *images, "out=run/features"), outcome_of_features,
            ("cache", "output"), one=False, result="run/features",
        ),
        "texts": Kind(fit(texts), outcome_of_texts, ("write", "cache")),
        "page": Kind(
            command(
                train, *SMALL, *short, "model=dann", "resume=auto", "hydra.run.dir=run",
            ),
            outcome_of_page, ("report",),
        ),
        "predict": Kind(
            command(
                predict, f"checkpoint={root / 'dann' / 'run'}", f"input={data / 'images'}",
                "out=run/predictions.csv",
            ),
            outcome_of_predictions, ("output",), one=False,
        ),
    }  # fmt: skip


def interrupted(
    kind: Kind, folder: Path, seconds: float, steps: Steps, rng: random.Random
) -> list[dict[str, Any]]:
    """Start a run and interrupt it one to three times; return what was found after each time."""
    kills: list[dict[str, Any]] = []
    num_kills = rng.randint(1, 3)
    while len(kills) < num_kills and not kind.is_done(folder):
        how = rng.choice(["random", "signal", *kind.modes])
        steps.set(0)
        ended = kill(start(kind, folder, steps), folder, how, seconds, rng)
        if ended is None:
            if kills:
                break
            shutil.rmtree(folder)  # finished before the first kill: try again
            continue
        number, code = ended
        found = {"how": how, "signal": signal.Signals(number).name, "code": code}
        if kind.one:
            kept = checkpoint_steps(folder)
            found |= {"at": steps.get(), "kept": kept, "lost": max(0, steps.get() - kept)}
        found["cut"] = sorted(os.path.relpath(n, folder) for n in matching(folder, FILES.get(how)))
        kills.append(found | {"broken": broken_files(folder)})
    return kills


def drill(args: argparse.Namespace, root: Path) -> dict[str, Any]:
    steps, rng = Steps(), random.Random(args.seed)
    every = {name: kind for name, kind in kinds(root).items() if name in (args.kinds or [name])}
    expected, durations = {}, {}
    for name, kind in every.items():
        started = time.monotonic()
        assert run_to_end(kind, root / name, steps) == 0, (root / name / "log.txt").read_text()
        durations[name] = time.monotonic() - started
        expected[name] = kind.outcome(root / name)
    rows = []
    until = time.monotonic() + 60 * args.minutes
    for number in range(args.runs):
        if time.monotonic() > until:
            break
        name = list(every)[number % len(every)]
        kind, folder = every[name], root / str(number)
        row: dict[str, Any] = {"kind": name}
        row["kills"] = interrupted(kind, folder, durations[name], steps, rng)
        row["done"] = kind.is_done(folder)
        row["code"] = code = 0 if row["done"] else run_to_end(kind, folder, steps)
        result = kind.outcome(folder) if code == 0 else {}
        row["same"] = {k: result.get(k) == v for k, v in expected[name].items()}
        row["left"] = temporary_files(folder)
        if code == 0:
            row["differs"] = different(expected[name], result)
        else:
            row["log"] = (folder / "log.txt").read_text()[-2000:]
        rows.append(row)
        kills = ", ".join(f"{k['how']} {k['signal']} {k['code']}" for k in row["kills"])
        verdict = row.get("differs") or ("identical" if code == 0 else f"exit code {code}")
        broken = [name for k in row["kills"] for name in k["broken"]]
        print(f"{number} {name}: {kills or 'no kill'}: {verdict} {broken or ''}", flush=True)
        if identical(row) and not broken:
            shutil.rmtree(folder)
    return {
        **summary(rows),
        "kinds": {k: line(summary([r for r in rows if r["kind"] == k])) for k in every},
        "steps_between_checkpoints": 4,
        "seconds_uninterrupted": durations,
        "rows": rows,
    }


def identical(row: dict[str, Any]) -> bool:
    return row["code"] == 0 and not row["differs"] and all(row["same"].values())


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    kills = [kill for row in rows for kill in row["kills"]]
    trained = [kill for kill in kills if "at" in kill]
    lost = [kill["lost"] for kill in trained if kill["at"]]
    return {
        "runs": len(rows),
        "killed": sum(bool(row["kills"]) for row in rows),
        "kills": {how: sum(k["how"] == how for k in kills) for how in ("random", "signal", *FILES)},
        "signals": {name: sum(k["signal"] == name for k in kills)
                    for name in ("SIGKILL", "SIGTERM", "SIGINT")},
        "kills_during_a_write": sum(bool(kill["cut"]) for kill in kills),
        "kills_before_the_first_step": sum(not kill["at"] for kill in trained),
        "complete_when_killed": sum(row["done"] for row in rows),
        "finished": sum(row["code"] == 0 for row in rows),
        "identical": sum(identical(row) for row in rows),
        "files_found_broken": sum(len(kill["broken"]) for kill in kills),
        "wrong_exit_codes": sum(
            kill["code"] not in INTERRUPTED for kill in kills if kill["how"] == "signal"
        ),
        "runs_with_temporary_files_left": sum(bool(row["left"]) for row in rows),
        "steps_lost": {"most": max(lost, default=0), "median": median(lost) if lost else 0},
    }  # fmt: skip


def line(found: dict[str, Any]) -> str:
    """Return the summary of a kind in one line."""
    kills = ", ".join(f"{number} {how}" for how, number in found["kills"].items() if number)
    return (
        f"{found['identical']} of {found['runs']} identical, {sum(found['kills'].values())} kills "
        f"({kills}), {found['files_found_broken']} broken files"
    )


def full_disk(root: Path) -> dict[str, Any]:
    """Let a run fill a small file system, then enlarge the file system and resume."""
    steps, disk = Steps(), root / "disk"
    kind = Kind(fit(configuration("dann")), outcome, ())
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
        code = run_to_end(kind, disk, steps)
        log = (disk / "log.txt").read_text().splitlines()
        kept, broken = checkpoint_steps(disk), len(broken_files(disk / "run" / "checkpoints"))
        subprocess.run([*options, "remount,size=1g", "tmpfs", str(disk)], check=True)
        resumed = run_to_end(kind, disk, steps)
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
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=600.0, help="start no run after this time")
    parser.add_argument("--kinds", nargs="*", help="only these kinds of runs; predict needs dann")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = drill(args, Path(folder))
        if (Path(folder) / "dann").is_dir():
            results["full_disk"] = full_disk(Path(folder))
    if args.out:
        args.out.write_text(json.dumps(results, indent=2) + "\n")
    results.pop("rows")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
