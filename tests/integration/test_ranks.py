"""Two ranks are one rank with the doubled batch: weights, losses, every value that is logged."""

from __future__ import annotations

import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import evaluated, same, weights
from integration.ranks import fit, settings
from tl_lightning.evaluation import evaluate as evaluation

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WORKER = Path(__file__).with_name("ranks.py")
SGD = ["optimizer=sgd", "optimizer.lr=0.05", "bracket=[]", "callbacks.health.every_n_steps=2"]
PLAIN = ["backbone.norm=false", *SGD]
VIT = ["backbone=timm", "backbone.name=vit_tiny_patch16_224", "backbone.pretrained=false",
       "backbone.size=32", *SGD]  # fmt: skip
SHARDED = ["trainer=fsdp", "trainer.accelerator=cpu"]
DDP = ["trainer=ddp", "trainer.accelerator=cpu"]
CPU = ["trainer=cpu"]

#: By name: the trainer of the two ranks, and the run.
JOBS = {
    "fine_tuning": (
        DDP,
        ["model=fine_tuning", "loss.class_weights=[1,2,3,4,5,6,7,8,9,10]", "callbacks=study",
         *PLAIN],
    ),
    "focal": (
        DDP,
        ["model=fine_tuning", "loss=focal", "loss.class_weights=[9,8,7,6,5,4,3,2,1,1]", *PLAIN],
    ),
    "dann": (DDP, ["model=dann", "callbacks=study", *PLAIN]),
    "cdan": (DDP, ["model=cdan", "adapter.cdan.entropy=true", *PLAIN]),
    "mmd": (
        DDP,
        ["model=domain_adaptation", "adapter=[mmd]", "adapter.mmd.gather=true",
         "adapter.mmd.ramp=none", *PLAIN],
    ),
    # Stages in turns (manual optimisation), and a statistic of the batch of all ranks.
    "mcd": (
        DDP,
        ["model=domain_adaptation", "adapter=[mcd,mmd]", "adapter.mmd.gather=true",
         "adapter.mmd.ramp=none", *PLAIN],
    ),
    "terms": (
        DDP,
        ["model=dann", "callbacks=ema", "callbacks.average.decay=0.5", "regularizer=[l1,l2,l2_sp]",
         "regularizer.l2_sp.alpha=5", "callbacks.health.patience=100", *PLAIN],
    ),
    "sharded_vit": (SHARDED, ["model=fine_tuning", "trainer.gradient_clip_val=0.1", *VIT]),
    "sharded_dann": (SHARDED, ["model=dann", "trainer.accumulate_grad_batches=2", *PLAIN]),
    # The last layer learns, then rests.
    "sharded_phases": (
        SHARDED,
        ["model=fine_tuning", "phases.steps=[{from:0,train:[head,last:1]},{from:1,train:[head]}]",
         *PLAIN],
    ),
}  # fmt: skip
#: With batch norm each rank normalises by its own pictures, so nothing equals one rank.
NORMS = {
    "norms": (DDP, ["model=dann", "callbacks=ema", "callbacks.average.decay=0.5", *SGD]),
    "sharded_norms": (SHARDED, ["model=fine_tuning", *SGD]),
    "phases": (
        DDP,
        [
            "model=fine_tuning",
            "phases.steps=[{from:0,train:[head]},{from:1,train:[head,last:2]}]",
            *SGD,
        ],
    ),
}
#: Gone on with after the first epoch.
RESUMED = {
    "resumed": (SHARDED, [*JOBS["sharded_dann"][1], "resume=<folder>/sharded_dann/first.ckpt"])
}
#: On files of their own, see the fixture.
MORE = ("pictures", "one", "sharded_tasks")
#: A logistic regression ends when it moves little: rounding decides a few of its digits.
ROUGH = ("validator/dev", "validator/iwcv", "validator/floored/dev", "validator/floored/iwcv")


def pictures(folder: Path, val: int, test: int) -> list[str]:
    """Return a run on files with so many pictures to validate and test on, of each domain."""
    rng = np.random.default_rng(0)
    for domain in ("photo", "sketch"):
        for split, count in (("train", 24), ("val", val), ("test", test)):
            for number in range(count):
                place = folder / domain / split / "abc"[number % 3] / f"{number}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
                pixels[..., number % 3] //= 4
                Image.fromarray(pixels).save(place)
    return [
        "model=dann", "data=folder", f"data.root={folder}/photo",
        f"data.target.root={folder}/sketch", "backbone=tiny_cnn", "backbone.size=16",
        "backbone.norm=false", "backbone.widths=[4,8]", "backbone.features=16",
        "data.num_workers=0", "data.eval_batch_size=8", "data.steps_per_epoch=3",
        "data.augment=light", *SGD,
    ]  # fmt: skip


def listed(folder: Path) -> list[str]:
    """Return a run with one picture to validate and one to test on: one of two ranks has none."""
    run = [one for one in pictures(folder, 1, 1) if not one.startswith("data.target.root")]
    files = [file.relative_to(folder) for file in sorted(folder.rglob("*.png"))]
    lines = [f"{file},{file.parts[2]},{file.parts[0]},{file.parts[1]}" for file in files]
    table = folder / "list.csv"
    table.write_text("\n".join(["path,label,domain,split", *lines]))
    kept = [one for one in run if not one.startswith(("data=", "data.root="))]
    domains = ["data.source.domain=photo", "data.target.domain=sketch"]
    return ["data=csv", f"data.table={table}", *domains, *kept]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory) -> dict[str, tuple[list[str], list[str]]]:
    files = pictures(tmp_path_factory.mktemp("pictures"), 27, 101)
    one = listed(tmp_path_factory.mktemp("one"))
    table = tmp_path_factory.mktemp("groups") / "groups.csv"
    lines = ["class,label", *(f"{k},{'odd' if k % 2 else 'even'}" for k in range(10))]
    table.write_text("\n".join(lines))
    parity = ["task=[coarse]", f"tasks.coarse.groups={table}"]
    more = {
        "pictures": (DDP, files),
        "one": (DDP, one),
        "sharded_tasks": (SHARDED, ["model=fine_tuning", *parity, *PLAIN]),
    }
    return {**JOBS, **NORMS, **RESUMED, **more}


@pytest.fixture(scope="module")
def two(jobs, tmp_path_factory) -> Path:
    """Run every job on two ranks, in one pair of processes; return the folder."""
    folder = tmp_path_factory.mktemp("two")
    own = ["trainer.devices=2", "data.batch_size=8"]
    arguments = {name: [*trainer, *own, *run] for name, (trainer, run) in jobs.items()}
    (folder / "jobs.json").write_text(json.dumps(arguments))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "NODE_RANK": "0"}
    started = []
    for rank in ("0", "1"):
        env = {**os.environ, **place, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(WORKER), rank, str(folder)]
        started.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True))
    said = [process.communicate(timeout=500)[1] for process in started]
    for process, words in zip(started, said, strict=True):
        assert process.returncode == 0, words[-3000:]
    return folder


def rows(folder: Path) -> list[dict[str, str]]:
    with next(folder.rglob("metrics.csv")).open() as file:
        return list(csv.DictReader(file))


def assert_rows_equal(left: list[dict[str, str]], right: list[dict[str, str]]) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            if value != other[name]:
                close = 1e-2 if name in ROUGH else 2e-6
                wanted = pytest.approx(float(value), rel=close, abs=close)
                assert float(other[name]) == wanted, (name, one["step"])


@pytest.mark.parametrize("name", [*JOBS, *MORE])
def test_two_ranks_equal_one_rank_with_the_doubled_batch(name, jobs, two, tmp_path) -> None:
    run = [*CPU, "data.batch_size=16", *jobs[name][1]]
    alone = fit(run, tmp_path)
    assert alone.logged
    ours, theirs = tmp_path / "checkpoints" / "last.ckpt", two / name / "checkpoints" / "last.ckpt"
    for key in ("state_dict", *(["current_model_state"] if name == "terms" else [])):
        one, other = (torch.load(place, weights_only=True)[key] for place in (ours, theirs))
        assert one.keys() == other.keys()
        for part, value in one.items():
            if isinstance(value, torch.Tensor):
                assert torch.allclose(value, other[part], atol=1e-6), part
    assert_rows_equal(rows(tmp_path), rows(two / name))
    reports = [json.loads((f / "report.json").read_text()) for f in (tmp_path, two / name)]
    assert reports[0]["metrics"] == pytest.approx(reports[1]["metrics"], abs=1e-6)
    found = [report["scale"] for report in reports]
    assert found[0]["global_batch"] == found[1]["global_batch"]
    assert [one["processes"] for one in found] == [1, 2]
    predictions = [np.load(f / "predictions.npz") for f in (tmp_path, two / name)]
    for part in ("source_true", "source_pred", "target_true", "target_pred"):
        assert np.array_equal(predictions[0][part], predictions[1][part])


def test_divided_weights_resume_exactly_and_load_on_one_device(two) -> None:
    files = [two / name / "checkpoints" / "last.ckpt" for name in ("sharded_dann", "resumed")]
    assert same(*map(weights, files))
    trainer = settings(*CPU)["trainer"]
    for name in ("sharded_dann", "sharded_vit"):
        last = two / name / "checkpoints" / "last.ckpt"
        found = evaluation.evaluate(last, None, trainer)["metrics"]
        report = json.loads((two / name / "report.json").read_text())
        assert found == pytest.approx(evaluated(report), abs=1e-6)


def test_of_101_pictures_each_is_tested_once(two) -> None:
    found = np.load(two / "pictures" / "predictions.npz")
    assert len(found["source_true"]) == len(found["target_true"]) == 101
    counts = json.loads((two / "pictures" / "report.json").read_text())["dataset"]["counts"]
    assert {101, 27, 24} <= set(counts.values())


@pytest.mark.parametrize("name", [*JOBS, *NORMS, *MORE])
def test_ranks_log_the_same_and_score_one_model(name, two) -> None:
    heard = [json.loads((two / name / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert heard[0]["logged"] == heard[1]["logged"]
    assert len(heard[0]["logged"]) == 3
    assert [one["spread"] for one in heard] == [[0.0, 0.0]] * 2
    assert "warnings" in (report := json.loads((two / name / "report.json").read_text()))
    assert not [words for words in report["warnings"] if "sync_dist" in words]
