"""Recompute the golden runs and compare their digests with ``benchmarks/golden.json``.

    python benchmarks/golden.py                     # compare every run with the stored digests
    python benchmarks/golden.py --only dann mcd     # some of them
    python benchmarks/golden.py --write             # store new digests, after an intended change

Each run is tiny (seconds on one CPU core) and goes through ``fit`` as any other run. Its digests
cover the weights of the last checkpoint, the logged history, the chosen epoch, the test metrics and
the predictions of every test sample. They do not depend on names inside the state dict or on column
names of ``metrics.csv``, so that renaming leaves them alone.

Bits depend on the version of torch and on the processor; both are stored beside the digests. On
another machine, run the script once on the older commit with ``--write`` and then on the newer one.
The test suite checks losses and metrics of a few runs with a tolerance.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import lightning as L
import numpy as np
import torch
from omegaconf import OmegaConf

REPO = Path(__file__).resolve().parents[1]
STORED = Path(__file__).with_suffix(".json")
sys.path.insert(0, str(REPO / "tests"))

from conftest import TINY
from layouts import split_folders, table
from tiny_texts import reviews, tiny_bert
from tl_lightning.config.compose import compose
from tl_lightning.training import fit as training

#: The tiny settings that do not depend on the dataset or backbone.
COMMON = [setting for setting in TINY if not setting.startswith(("data", "backbone."))]
FILES = [
    "data.batch_size=4", "data.eval_batch_size=8", "data.steps_per_epoch=3", "data.num_workers=0",
]  # fmt: skip
#: Methods that can be used alone on labelled source and unlabelled target images.
METHODS = (
    "adabn", "adda", "afn", "bnm", "cdan", "coral", "dann", "deepjdot", "dsan", "dsbn", "entropy",
    "jan", "mcc", "mcd", "mdd", "mmd", "self_training", "wdgrl",
)  # fmt: skip


class Stop(Exception):
    """Raised to end a run in the middle."""


class StopAt(L.Callback):
    """Save a checkpoint after the given batch of an epoch and end the run."""

    def __init__(self, epoch: int, batch: int) -> None:
        self.position = (epoch, batch)

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (trainer.current_epoch, batch_idx) == self.position:
            trainer.save_checkpoint(trainer.checkpoint_callback.dirpath + "/last.ckpt")
            raise Stop


def digits(*overrides: str) -> list[str]:
    return [*TINY, "data.num_workers=0", "selection=bnm", *overrides]


def files(folder: Path, *overrides: str) -> list[str]:
    root = split_folders(folder / "dogs", train=20, test=8)
    return [
        *COMMON, "data=dogs", f"data.root={root}", "backbone=tiny_cnn", "backbone.widths=[4,8]",
        "backbone.features=16", *FILES, *overrides,
    ]  # fmt: skip


def texts(folder: Path, *overrides: str) -> list[str]:
    tiny_bert(folder / "bert")
    reviews(folder / "short", 14, most=6)
    reviews(folder / "long", 12, seed=300, most=20)
    return [
        *COMMON, "data=text_folder", f"data.root={folder / 'short'}",
        f"data.target.root={folder / 'long'}", "backbone=hf", f"backbone.name={folder / 'bert'}",
        "backbone.pretrained=false", "backbone.lr_factor=1.0", "data.bucket=2", *FILES, *overrides,
    ]  # fmt: skip


def vectors(folder: Path, *overrides: str) -> list[str]:
    rng = np.random.default_rng(0)
    arguments = [*COMMON, "data=vectors", "data.batch_size=16"]
    for role, shift in (("source", 0.0), ("target", 1.0)):
        y = np.arange(120) % 2
        np.savez(folder / f"{role}.npz", x=rng.normal(size=(120, 6)) + 3 * y[:, None] + shift, y=y)
        arguments.append(f"data.{role}.train={folder / role}.npz")
    return [*arguments, *overrides]


def tasks(folder: Path) -> list[str]:
    rows = [["class", "label"], *([k, "odd" if k % 2 else "even"] for k in range(10))]
    groups = table(folder / "groups.csv", rows)
    return digits(
        "aux_task=[coarse]", f"aux_tasks.coarse.groups={groups}", "task_weighting=uncertainty"
    )


Settings = Callable[[Path], list[str]]


def runs() -> dict[str, Settings]:
    """Return every golden run by name, as a function from an empty folder to its settings."""
    settings: dict[str, Settings] = {
        f"method_{name}": lambda _, name=name: digits("model=domain_adaptation", f"method=[{name}]")
        for name in METHODS
    }
    settings |= {
        "dann": lambda _: digits("model=dann", "trainer.max_epochs=3"),
        "dann_mcc": lambda _: digits("model=domain_adaptation", "method=[dann,mcc]"),
        "joint_bn": lambda _: digits("model=joint_bn"),
        "oracle": lambda _: digits("model=oracle"),
        "head_first": lambda _: digits(
            "model=fine_tuning", "phases=head_first", "trainer.max_epochs=3", "data.target=null",
            "selection=source_val",
        ),
        "features": lambda _: digits(
            "model=feature_extraction", "data.augment=none", "cache.features=full",
            "selection=source_val", "head=mlp",
        ),
        "penalties": lambda _: digits(
            "model=fine_tuning", "regularizer=[l1,l2,l2_sp,bss]", "callbacks=ema", "loss=focal",
            "selection=source_val",
        ),
        "tasks": tasks,
        "files": lambda folder: files(
            folder, "model=dann", "data.augment=strong", "data.target.labelled_per_class=2"
        ),
        "mixup": lambda folder: files(
            folder, "model=source_only", "data.augment=randaugment", "cache.images=off",
            "data.mixup_alpha=0.4", "data.cutmix_alpha=1.0",
        ),
        "self_training_files": lambda folder: files(
            folder, "model=self_training", "cache.images=decoded"
        ),
        "texts": lambda folder: texts(folder, "model=cdan"),
        "text_features": lambda folder: texts(
            folder, "model=feature_extraction", "cache.features=full"
        ),
        "vectors": lambda folder: vectors(folder, "model=dann", "trainer.max_epochs=5"),
        "two_ranks": lambda _: digits(
            "model=dann", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2",
            "trainer.precision=32-true", "trainer.max_epochs=2", "data.batch_size=8",
        ),
    }  # fmt: skip
    return settings


def fitted(name: str, overrides: list[str], folder: Path) -> Path:
    """Run the settings and return the run folder."""
    run = folder / "run"
    if name == "two_ranks":  # needs one process per rank
        script = [sys.executable, str(REPO / "scripts" / "train.py")]
        command = [*script, *overrides, f"hydra.run.dir={run}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        if done.returncode:
            raise SystemExit(f"{name}: {done.stderr[-3000:]}")
        return run

    def settings(*more: str) -> Any:
        return OmegaConf.to_container(compose([*overrides, *more]), resolve=True)

    if name == "resumed":
        with contextlib.suppress(Stop):
            training.fit(settings(), run, callbacks=[StopAt(1, 1)])
        training.fit(settings("resume=auto"), run)
    else:
        training.fit(settings(), run)
    return run


def sha(*parts: bytes) -> str:
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(part)
    return hashed.hexdigest()[:16]


def weights_digest(checkpoint: Path) -> str:
    """Return a digest of all tensors, independent of their names and order."""
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    tensors = [value for value in state.values() if isinstance(value, torch.Tensor)]
    return sha(*sorted(
        sha(f"{t.dtype}{tuple(t.shape)}".encode(), t.contiguous().flatten().view(torch.uint8)
            .numpy().tobytes() if t.numel() else b"").encode()
        for t in tensors
    ))  # fmt: skip


def history(path: Path) -> list[list[str]]:
    """Return the values of every row of ``metrics.csv``, without the column names."""
    with path.open() as file:
        return [sorted(value for value in row if value) for row in list(csv.reader(file))[1:]]


def predictions_digest(path: Path) -> str:
    with np.load(path, allow_pickle=False) as arrays:
        return sha(*(
            part for name in sorted(arrays.files)
            for part in (name.encode(), np.ascontiguousarray(arrays[name]).tobytes())
        ))  # fmt: skip


def digest(run: Path) -> dict[str, Any]:
    """Return the digests and metrics of a finished run."""
    report = json.loads((run / "report.json").read_text())
    return {
        "weights": weights_digest(run / "checkpoints" / "last.ckpt"),
        "history": sha(json.dumps(history(run / "metrics.csv")).encode()),
        "predictions": predictions_digest(run / "predictions.npz"),
        "epoch": report["selection"]["epoch"],
        "metrics": {k: v for k, v in report["metrics"].items() if "/test/" in k},
    }


def processor() -> str:
    """Return the model of the processor; on another one, sums may be rounded differently."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor()
    first = info.read_text().partition("\n\n")[0]
    pairs = [line.partition(":") for line in first.splitlines()]
    keys = ("model name", "cpu family", "model", "stepping")
    values = {key.strip(): value.strip() for key, _, value in pairs}
    return ", ".join(values[key] for key in keys if key in values)


def machine() -> dict[str, str]:
    """Return what the bits of a run depend on."""
    return {
        "torch": torch.__version__, "lightning": L.__version__, "numpy": np.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(), "processor": processor(),
    }  # fmt: skip


def compute(only: list[str]) -> dict[str, dict[str, Any]]:
    torch.set_num_threads(1)
    digests, settings = {}, runs()
    settings["resumed"] = settings["dann"]
    for name in only or settings:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["TL_CACHE"] = str(Path(folder) / "cache")
            digests[name] = digest(fitted(name, settings[name](Path(folder)), Path(folder)))
        print(f"{name}: {digests[name]['weights']}", flush=True)
    return digests


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="RUN")
    parser.add_argument("--write", action="store_true", help="store the digests")
    args = parser.parse_args()
    digests = compute(args.only)
    if args.write:
        STORED.write_text(json.dumps({"machine": machine(), "runs": digests}, indent=1) + "\n")
        return
    stored = json.loads(STORED.read_text())
    if stored["machine"] != machine():
        print(f"note: the stored digests are from {stored['machine']}, this is {machine()}")
    differ = [
        f"{name}: {key}"
        for name, values in digests.items()
        for key, value in values.items()
        if stored["runs"][name][key] != value
    ]
    print(
        f"{len(digests)} runs, {len(digests) * 5} values, {len(differ)} differ", *differ, sep="\n"
    )
    sys.exit(bool(differ))


if __name__ == "__main__":
    main()
