"""Two ranks equal one rank with twice the batch size: weights, losses and all logged values."""

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
SGD = [
    "optimizer=sgd",
    "optimizer.lr=0.05",
    "baselines=[]",
    "callbacks.adversary_monitor.every_n_steps=2",
]
PLAIN = ["backbone.norm=false", *SGD]
VIT = ["backbone=timm", "backbone.name=vit_tiny_patch16_224", "backbone.pretrained=false",
       "backbone.size=32", *SGD]  # fmt: skip
SHARDED = ["trainer=fsdp", "trainer.accelerator=cpu"]
DDP = ["trainer=ddp", "trainer.accelerator=cpu"]
CPU = ["trainer=cpu"]

#: Trainer of the two ranks and settings of the run by name.
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
    "dann": (DDP, ["model=dann", "callbacks=study", "data.sampling=class_balanced", *PLAIN]),
    "pseudo": (DDP, ["model=dann", "data.target_sampling=pseudo_balanced", *PLAIN]),
    "cdan": (DDP, ["model=cdan", "method.cdan.entropy=true", *PLAIN]),
    "mmd": (
        DDP,
        ["model=domain_adaptation", "method=[mmd]", "method.mmd.gather=true",
         "method.mmd.ramp=none", *PLAIN],
    ),
    # Several optimizer steps per batch, and a statistic over the batches of all ranks.
    "mcd": (
        DDP,
        ["model=domain_adaptation", "method=[mcd,mmd]", "method.mmd.gather=true",
         "method.mmd.ramp=none", *PLAIN],
    ),
    "terms": (
        DDP,
        ["model=dann", "callbacks=ema", "callbacks.weight_averaging.decay=0.5",
         "regularizer=[l1,l2,l2_sp]", "regularizer.l2_sp.alpha=5",
         "callbacks.adversary_monitor.patience=100", *PLAIN],
    ),
    "sharded_vit": (SHARDED, ["model=fine_tuning", "trainer.gradient_clip_val=0.1", *VIT]),
    "sharded_dann": (SHARDED, ["model=dann", "trainer.accumulate_grad_batches=2", *PLAIN]),
    # The last layer group is trained, then frozen.
    "sharded_phases": (
        SHARDED,
        ["model=fine_tuning", "phases.steps=[{from:0,train:[head,last:1]},{from:1,train:[head]}]",
         *PLAIN],
    ),
}  # fmt: skip
#: With batch norm, each rank normalises over its own samples, so results differ from one rank.
NORMS = {
    "norms": (
        DDP,
        [
            "model=dann",
            "method.dann.norm=batch",
            "callbacks=ema",
            "callbacks.weight_averaging.decay=0.5",
            *SGD,
        ],
    ),
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
#: Resumed after the first epoch.
RESUMED = {
    "resumed": (SHARDED, [*JOBS["sharded_dann"][1], "resume=<folder>/sharded_dann/first.ckpt"])
}
#: Runs on datasets created by the fixture.
MORE = ("images", "one", "unlabelled", "sharded_tasks", "aligned", "fitted", "numbers")
#: The iterative solver of the logistic regression amplifies rounding errors.
ROUGH = ("validator/dev", "validator/iwcv", "validator/floored/dev", "validator/floored/iwcv")


def images(folder: Path, val: int, test: int) -> list[str]:
    """Create image files and return a run on them; ``val`` and ``test`` are counts per domain."""
    rng = np.random.default_rng(0)
    for domain in ("photo", "sketch"):
        for split, count in (("train", 24), ("val", val), ("test", test)):
            for number in range(count):
                path = folder / domain / split / "abc"[number % 3] / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
                pixels[..., number % 3] //= 4
                Image.fromarray(pixels).save(path)
    return [
        "model=dann", "data=folder", f"data.root={folder}/photo",
        f"data.target.root={folder}/sketch", "backbone=tiny_cnn", "backbone.size=16",
        "backbone.norm=false", "backbone.widths=[4,8]", "backbone.features=16",
        "data.num_workers=0", "data.eval_batch_size=8", "data.steps_per_epoch=3",
        "data.augment=light", *SGD,
    ]  # fmt: skip


def listed(folder: Path) -> list[str]:
    """Return a run with one validation and one test image, so that one of two ranks has none."""
    run = images(folder, 1, 1)
    files = [file.relative_to(folder) for file in sorted(folder.rglob("*.png"))]
    lines = [f"{file},{file.parts[2]},{file.parts[0]},{file.parts[1]}" for file in files]
    table = folder / "list.csv"
    table.write_text("\n".join(["path,label,domain,split", *lines]))
    roots = ("data=", "data.root=", "data.target.root=")
    kept = [override for override in run if not override.startswith(roots)]
    domains = ["data.source.domain=photo", "data.target.domain=sketch"]
    return ["data=csv", f"data.table={table}", *domains, *kept]


def unlabelled(folder: Path) -> list[str]:
    """Return a run whose target is a flat folder of 37 images without labels."""
    run = images(folder, 3, 5)
    (folder / "flat").mkdir()
    for number, file in enumerate(sorted((folder / "sketch").rglob("*.png"))):
        file.rename(folder / "flat" / f"{number}.png")
    more = images(folder / "more", 1, 1)[2].partition("=")[2]  # data.root
    for number, file in enumerate(sorted(Path(more).rglob("*.png"))[:5]):
        file.rename(folder / "flat" / f"more{number}.png")
    kept = [override for override in run if not override.startswith("data.target.root=")]
    return [*kept, f"data.target.root={folder}/flat", "selection=bnm"]


def numbers(folder: Path) -> list[str]:
    """Return a run whose labels are two numbers, with 13 validation vectors of the source."""
    rng = np.random.default_rng(0)
    for role, count in (("source", 160), ("target", 120)):
        x = rng.normal(size=(count, 5))
        np.savez(folder / f"{role}.npz", x=x, y=x[:, :2] * [1.0, 50.0] + 3)
    files = [f"data.{role}.train={folder / role}.npz" for role in ("source", "target")]
    return ["model=dann", "data=vectors", "task=regression", "data.eval_batch_size=8", *files, *SGD]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory) -> dict[str, tuple[list[str], list[str]]]:
    files = images(tmp_path_factory.mktemp("images"), 27, 101)
    one = listed(tmp_path_factory.mktemp("one"))
    table = tmp_path_factory.mktemp("groups") / "groups.csv"
    lines = ["class,label", *(f"{k},{'odd' if k % 2 else 'even'}" for k in range(10))]
    table.write_text("\n".join(lines))
    parity = ["aux_task=[coarse]", f"aux_tasks.coarse.groups={table}"]
    trained = tmp_path_factory.mktemp("trained")
    fit([*CPU, "model=source_only", "trainer.max_epochs=1"], trained)
    # Statistics and features are measured by two ranks and by one, each with a cache of its own.
    aligned = [
        "model=domain_adaptation", "method=[relative_bn,align,entropy]", "head_init=probe",
        f"backbone.checkpoint={trained}", "cache.dir=<folder>/cache", "selection=cbnm", *SGD,
    ]  # fmt: skip
    # All layers of a head are fitted; batch norm in the head would use the batches of each rank.
    fitted = [*aligned, "head.bottleneck=8", "head.bottleneck_norm=layer"]
    more = {
        "aligned": (DDP, aligned),
        "fitted": (DDP, fitted),
        "images": (DDP, files),
        "numbers": (DDP, numbers(tmp_path_factory.mktemp("numbers"))),
        "one": (DDP, one),
        "unlabelled": (DDP, unlabelled(tmp_path_factory.mktemp("unlabelled"))),
        "sharded_tasks": (SHARDED, ["model=fine_tuning", *parity, *PLAIN]),
    }
    return {**JOBS, **NORMS, **RESUMED, **more}


@pytest.fixture(scope="module")
def two(jobs, tmp_path_factory) -> Path:
    """Run all jobs with two ranks in one pair of processes; return the folder."""
    folder = tmp_path_factory.mktemp("two")
    shared = ["trainer.devices=2", "data.batch_size=8"]
    arguments = {name: [*trainer, *shared, *run] for name, (trainer, run) in jobs.items()}
    (folder / "jobs.json").write_text(json.dumps(arguments))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "NODE_RANK": "0"}
    started = []
    for rank in ("0", "1"):
        env = {**os.environ, **common, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(WORKER), rank, str(folder)]
        started.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True))
    outputs = [process.communicate(timeout=500)[1] for process in started]
    for process, output in zip(started, outputs, strict=True):
        assert process.returncode == 0, output[-3000:]
    return folder


def rows(folder: Path) -> list[dict[str, str]]:
    with next(folder.rglob("metrics.csv")).open() as file:
        return list(csv.DictReader(file))


def assert_rows_equal(left: list[dict[str, str]], right: list[dict[str, str]]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            if value != b[name]:
                tolerance = 1e-2 if name in ROUGH else 5e-6  # sums in another order
                expected = pytest.approx(float(value), rel=tolerance, abs=tolerance)
                assert float(b[name]) == expected, (name, a["step"])


@pytest.mark.slow
@pytest.mark.parametrize("name", [*JOBS, *MORE])
def test_two_ranks_equal_one_rank_with_twice_the_batch_size(name, jobs, two, tmp_path) -> None:
    own = [override.replace("<folder>", str(tmp_path)) for override in jobs[name][1]]
    run = [*CPU, "data.batch_size=16", *own]
    assert fit(run, tmp_path).logged
    paths = [folder / "checkpoints" / "last.ckpt" for folder in (tmp_path, two / name)]
    for key in ("state_dict", *(["current_model_state"] if name == "terms" else [])):
        a, b = (torch.load(path, weights_only=True)[key] for path in paths)
        assert a.keys() == b.keys()
        for part, value in a.items():
            if isinstance(value, torch.Tensor):
                assert torch.allclose(value, b[part], atol=1e-6), part
    assert_rows_equal(rows(tmp_path), rows(two / name))
    reports = [json.loads((f / "report.json").read_text()) for f in (tmp_path, two / name)]
    assert reports[0]["metrics"] == pytest.approx(reports[1]["metrics"], abs=1e-6)
    scales = [report["scale"] for report in reports]
    assert scales[0]["global_batch"] == scales[1]["global_batch"]
    assert [scale["processes"] for scale in scales] == [1, 2]
    predictions = [np.load(f / "predictions.npz") for f in (tmp_path, two / name)]
    if name == "numbers":  # no classes, and nothing that is computed of them
        for part in ("source_value", "source_measured", "target_value", "target_measured"):
            np.testing.assert_allclose(predictions[0][part], predictions[1][part], atol=1e-5)
        return
    for part in ("source_true", "source_pred", "target_true", "target_pred"):
        assert np.array_equal(predictions[0][part], predictions[1][part])
    for part in ("source_logits", "target_logits", "source_val_logits"):
        np.testing.assert_allclose(predictions[0][part], predictions[1][part], atol=0.01)
    chosen = [
        folder / report["selection"]["checkpoint"]
        for folder, report in zip((tmp_path, two / name), reports, strict=True)
    ]
    records = [torch.load(path, weights_only=True)["reliability"] for path in chosen]
    assert torch.equal(records[0]["labels"], records[1]["labels"])
    assert torch.allclose(records[0]["features"].float(), records[1]["features"].float(), atol=0.01)
    if name in ("aligned", "fitted"):
        assert len(reports[0]["start"]["candidates"]) == 3
        assert reports[0]["start"] == reports[1]["start"]
    if name == "unlabelled":
        assert len(predictions[0]["target_pred"]) == 37
        assert np.array_equal(*(arrays["examples_target"] for arrays in predictions))
        assert (
            reports[0]["predicted"]["target"]["classes"]
            == (reports[1]["predicted"]["target"]["classes"])
        )
        assert len((two / name / "predictions.csv").read_text().splitlines()) == 38


def test_sharded_weights_are_resumed_exactly_and_load_on_one_device(two) -> None:
    files = [two / name / "checkpoints" / "last.ckpt" for name in ("sharded_dann", "resumed")]
    assert same(*map(weights, files))
    trainer = settings(*CPU)["trainer"]
    for name in ("sharded_dann", "sharded_vit"):
        last = two / name / "checkpoints" / "last.ckpt"
        metrics = evaluation.evaluate(last, None, trainer)["metrics"]
        report = json.loads((two / name / "report.json").read_text())
        assert metrics == pytest.approx(evaluated(report), abs=1e-6)


def test_each_of_101_images_is_tested_once(two) -> None:
    predictions = np.load(two / "images" / "predictions.npz")
    assert len(predictions["source_true"]) == len(predictions["target_true"]) == 101
    counts = json.loads((two / "images" / "report.json").read_text())["dataset"]["counts"]
    assert {101, 27, 24} <= set(counts.values())


@pytest.mark.parametrize("name", [*JOBS, *NORMS, *MORE])
def test_ranks_log_the_same_values_and_evaluate_the_same_model(name, two) -> None:
    ranks = [json.loads((two / name / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert ranks[0]["logged"] == ranks[1]["logged"]
    assert len(ranks[0]["logged"]) == 3
    assert [rank["spread"] for rank in ranks] == [[0.0, 0.0]] * 2
    assert "warnings" in (report := json.loads((two / name / "report.json").read_text()))
    assert not [warning for warning in report["warnings"] if "sync_dist" in warning]
