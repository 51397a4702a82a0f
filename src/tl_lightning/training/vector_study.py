"""Activation study on vectors: a small MLP trained in a plain loop.

512 vectors need neither data loaders nor a trainer. The network is the framework's
:class:`~tl_lightning.tasks.head.Head`; the measurements and files are those of a ``train.py`` run
with ``callbacks=study``, so that one report reads both.
"""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tl_lightning.callbacks.activation_stats import Meter, weight_gradients
from tl_lightning.layers import Activation
from tl_lightning.reporting.schema import SCHEMA
from tl_lightning.tasks.head import Head
from tl_lightning.utils.files import write_json, write_text
from tl_lightning.utils.process import versions
from tl_lightning.utils.seeding import mix

__all__ = ["Task", "Vectors", "fit_vectors", "make_task"]

FEATURES, WAVES, SIZES = 10, 4, [512, 512, 4096]
#: Training settings, the same for every activation.
RECIPE = {"width": 64, "lr": 5e-3, "epochs": 120, "batch_size": 64}


class Vectors(NamedTuple):
    """Samples ``x (N, 10)`` with their classes ``y (N,)``."""

    x: Tensor
    y: Tensor


class Task(NamedTuple):
    """Disjoint splits of one task."""

    train: Vectors
    val: Vectors
    test: Vectors


def make_task(seed: int) -> Task:
    r"""Return standard normal vectors labelled with two classes by a smooth random function.

    ``y = [f(x) > median f]`` with ``f(x) = \sum_k cos(w_k . x + b_k)``, four random waves with
    ``w_k`` from ``N(0, 0.5^2 I)`` and ``b_k`` uniform in ``[0, 2 pi)``: smooth, and not favouring
    any activation. There are 512 training, 512 validation and 4,096 test vectors.

    >>> task = make_task(0)
    >>> task.train.x.shape, task.test.y.shape
    (torch.Size([512, 10]), torch.Size([4096]))
    """
    g = torch.Generator().manual_seed(mix(seed, 77))
    waves = 0.5 * torch.randn(FEATURES, WAVES, generator=g)
    phases = 2 * torch.pi * torch.rand(WAVES, generator=g)
    x = torch.randn(sum(SIZES), FEATURES, generator=g)
    f = torch.cos(x @ waves + phases).sum(1)
    y = (f > f.median()).long()
    parts = zip(torch.split(x, SIZES), torch.split(y, SIZES), strict=True)
    return Task(*(Vectors(*part) for part in parts))


def fit_vectors(activation: Activation, seed: int, folder: Path) -> float:
    """Train a head with one hidden layer of 64 units; write the files of a run.

    The seed determines the task, the initial weights and the order of the batches, which are thus
    the same for every activation.

    Args:
        activation: Activation of the hidden layer.
        seed: Seed of the task, the weights and the batches.
        folder: Folder for ``report.json`` and ``metrics.csv``.

    Returns:
        The test accuracy after the last epoch.
    """
    started, task = time.monotonic(), make_task(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(seed, 2))
        head = Head(
            in_features=FEATURES, num_classes=2, bottleneck=None, bottleneck_norm="none",
            width=int(RECIPE["width"]), activation=activation, dropout=0.0,
        )  # fmt: skip
    optimizer = torch.optim.Adam(head.parameters(), lr=RECIPE["lr"])
    rows = []
    for epoch in range(int(RECIPE["epochs"])):
        gradients = _train(head, optimizer, task.train, mix(seed, 3, epoch))
        rows.append({"epoch": float(epoch), **gradients, **_validate(head, task.val)})
    with torch.no_grad():
        accuracy = _accuracy(head(task.test.x)[1], task.test.y)
    _write(folder, rows, accuracy, activation, seed, time.monotonic() - started)
    return accuracy


def _train(
    head: Head, optimizer: torch.optim.Optimizer, data: Vectors, seed: int
) -> dict[str, float]:
    """Train for one epoch; return the mean gradient norms of its steps."""
    order = torch.randperm(len(data.x), generator=torch.Generator().manual_seed(seed))
    batches = torch.split(order, int(RECIPE["batch_size"]))
    total: dict[str, float] = {}
    for index in batches:
        optimizer.zero_grad()
        functional.cross_entropy(head(data.x[index])[1], data.y[index]).backward()  # type: ignore[no-untyped-call]
        for name, norm in weight_gradients(head).items():
            key = f"activation/task.head.{name}/grad"
            total[key] = total.get(key, 0.0) + float(norm) / len(batches)
        optimizer.step()
    return total


def _validate(head: Head, data: Vectors) -> dict[str, float]:
    """Return the validation accuracy and the fraction of saturated activations."""
    meter = Meter(head)
    with torch.no_grad(), meter.watching():
        row = {"source/val/acc": _accuracy(head(data.x)[1], data.y)}
    fractions = meter.shares().items()
    return row | {f"activation/task.head.{name}/saturated": float(v) for name, v in fractions}


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).double().mean())


def _write(
    folder: Path,
    rows: list[dict[str, float]],
    accuracy: float,
    activation: Activation,
    seed: int,
    seconds: float,
) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "metrics.csv", text.getvalue())
    study = {"part": "vectors", "activation": activation}
    report = {
        "schema": SCHEMA,
        "kind": "run",
        "status": "finished",
        "name": "mlp",
        "data": "vectors",
        "seed": seed,
        "group": f"vectors-{activation}",
        "baseline_of": None,
        "selection": {"rule": "last", "uses_target_labels": False, "epoch": len(rows) - 1},
        "metrics": {"source/test/acc": accuracy},
        "notes": [],
        "warnings": [],
        "timing": {"total_s": seconds},
        "versions": versions(),
        "device": "cpu, 32-true",
        "scale": {
            "processes": 1,
            "batch_size": RECIPE["batch_size"],
            "accumulated": 1,
            "global_batch": RECIPE["batch_size"],
            "lr": RECIPE["lr"],
        },
        "dataset": {"classes": ["0", "1"], "counts": dict(zip(Task._fields, SIZES, strict=True))},
        "config": {"seed": seed, "study": study, "recipe": dict(RECIPE)},
    }
    write_json(folder / "report.json", report)
