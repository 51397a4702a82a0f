"""Fixtures that write finished runs in the folder layout of a training run."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tl_lightning.utils.files import write_json

MakeReport = Callable[..., dict[str, Any]]


@pytest.fixture
def make_report() -> MakeReport:
    def build(
        name: str = "dann",
        seed: int = 0,
        target: float | None = 0.6,
        rule: str = "source_val",
        classes: tuple[str, ...] = ("ant", "bee", "cat"),
        **other: Any,
    ) -> dict[str, Any]:
        metrics = {"source/test/acc": 0.9, "source/test/f1": 0.89, "source/test/loss": 0.3}
        metrics |= {"source/test/precision": 0.9, "source/test/recall": 0.9}
        if target is not None:
            metrics |= {f"target/test/{name}": target for name in ("acc", "precision", "recall")}
            metrics["target/test/f1"] = target
        return {
            "schema": 1,
            "kind": "run",
            "name": name,
            "data": "digits",
            "seed": seed,
            "group": f"hash-{name}",
            "selection": {
                "rule": rule,
                "description": "highest accuracy on labelled source validation",
                "uses_target_labels": rule == "oracle",
                "monitor": "source/val/acc",
                "value": 0.98,
                "epoch": 2,
                "checkpoint": "checkpoints/best.ckpt",
            },
            "metrics": metrics,
            "notes": ["target: synthetic shift (blur)"],
            "warnings": [],
            "timing": {"total_s": 90.0, "fit_s": 80.0, "test_s": 1.0, "steps": 40},
            "versions": {"tl_lightning": "0.1.0"},
            "device": "cpu",
            "dataset": {"classes": list(classes), "counts": {"source/train": 60}},
            "forward": "joint",
            "config": {"seed": seed, "optimizer": {"lr": 0.01}},
            "baseline_of": None,
            "status": "finished",
        } | other

    return build


@pytest.fixture
def make_run(tmp_path: Path, make_report: MakeReport) -> Callable[..., Path]:
    def build(folder: str = "run", full: bool = False, **values: Any) -> Path:
        run = tmp_path / folder
        report = make_report(**values)
        write_json(run / "report.json", report)
        if full:
            _write_metrics(run / "metrics.csv")
            _write_predictions(run / "predictions.npz", len(report["dataset"]["classes"]))
        return run

    return build


def _write_metrics(path: Path) -> None:
    columns = ["epoch", "step", "train/loss", "source/val/acc", "dann/lambda", "lr/head"]
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, columns)
        writer.writeheader()
        for epoch in range(4):
            writer.writerow({"step": 10 * epoch, "lr/head": 0.01})
            for step in (0, 5):
                loss = {"train/loss": 1 / (1 + epoch + step), "dann/lambda": epoch / 4}
                writer.writerow({"epoch": epoch, "step": 10 * epoch + step, **loss})
            writer.writerow({"epoch": epoch, "step": 10 * epoch + 9, "source/val/acc": 0.9})


def _write_predictions(path: Path, num_classes: int) -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for domain in ("source", "target"):
        arrays[f"{domain}_true"] = np.arange(3 * num_classes) % num_classes
        arrays[f"{domain}_pred"] = rng.integers(0, num_classes, 3 * num_classes)
        arrays[f"{domain}_confidence"] = rng.random(3 * num_classes)
        arrays[f"examples_{domain}"] = rng.integers(0, 255, (3, 8, 8, 3), dtype=np.uint8)
        arrays[f"examples_{domain}_true"] = np.array([0, 1, 0])
        arrays[f"examples_{domain}_pred"] = np.array([0, 0, 1])
    arrays["features_before"] = rng.normal(size=(20, 2))
    arrays["features_after"] = rng.normal(size=(20, 2))
    arrays["features_domain"] = np.arange(20) % 2
    arrays["features_label"] = np.arange(20) % num_classes
    np.savez(path, **arrays)
