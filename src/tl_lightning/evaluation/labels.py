"""Evaluation of models whose labels are numbers, or any number of labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.evaluation.files import table
from tl_lightning.evaluation.outputs import Outputs
from tl_lightning.tasks.label_task import LabelTask
from tl_lightning.training.number_report import domain_numbers
from tl_lightning.utils.files import write_json

__all__ = ["kind_of", "of_labels", "write_labels"]


def kind_of(config: Mapping[str, Any]) -> str:
    """Return the kind of the main task of a stored configuration.

    >>> kind_of({}), kind_of({"task": {"kind": "regression"}})
    ('classification', 'regression')
    """
    return str((config.get("task") or {}).get("kind", "classification"))


def of_labels(
    task: LabelTask, data: TransferDataModule, outputs: Mapping[str, Outputs]
) -> dict[str, Any]:
    """Return the parts of an evaluation that depend on the kind of task.

    Args:
        task: The main task of the tested model.
        data: The data that it was tested on.
        outputs: Its outputs by domain.

    Returns:
        ``numbers`` as in a run's report (of a regression), ``values`` with the predictions ``(n,
        K)`` of every domain, as they are shown, and what other evaluations have, without content.
    """
    values = {
        name: task.values(torch.from_numpy(found.logits)).numpy() for name, found in outputs.items()
    }
    names, numbers = list(data.classes), {}
    if task.kind == "regression":
        numbers = {
            name: domain_numbers(np.asarray(found.labels), values[name], names, 0)
            for name, found in outputs.items()
            if found.labels is not None and len(found.labels)
        }
    return {
        "task": task.kind, "numbers": {"names": names, **numbers}, "values": values,
        "outputs": outputs, "domains": {}, "expected": [], "absent": None,
    }  # fmt: skip


def write_labels(folder: Path, result: Mapping[str, Any]) -> list[Path]:
    """Write ``metrics.json`` and ``predictions.csv`` of :func:`of_labels`.

    Args:
        folder: Where to write them; files of these names are replaced.
        result: What ``evaluate`` returns.
    """
    left_out = ("values", "outputs")
    names, rows = result["classes"], []
    for domain, found in result["outputs"].items():
        for index, (file, predicted) in enumerate(
            zip(found.files, result["values"][domain].tolist(), strict=True)
        ):
            labels = [] if found.labels is None else found.labels[index].tolist()
            labels = labels or [None] * len(names)
            # Nine significant digits give back any float32.
            numbers = ("" if value is None else f"{value:.9g}" for value in (*predicted, *labels))
            rows.append([domain, file, *numbers])
    header = ("domain", "file", *names, *(f"label {name}" for name in names))
    return [
        write_json(folder / "metrics.json", {k: v for k, v in result.items() if k not in left_out}),
        table(folder / "predictions.csv", header, rows),
    ]
