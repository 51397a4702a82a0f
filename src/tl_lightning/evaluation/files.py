"""The files of an evaluation: metrics, classes, confusions and predictions."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from tl_lightning.data.class_sets import UNKNOWN
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.evaluation.outputs import Outputs
from tl_lightning.utils.files import write_json, write_text
from tl_lightning.utils.text import csv_cell

__all__ = ["folder_for", "table", "write_evaluation"]

#: Parts of the result that are in the CSV files instead of ``metrics.json``.
_ELSEWHERE = ("outputs",)
_PER_CLASS = (
    "name", "support", "predicted", "recall", "recall_low", "recall_high", "precision", "f1",
    "auroc",
)  # fmt: skip
_PER_GROUP = ("value", "samples", "accuracy", "low", "high")


def folder_for(out: str | Path) -> Path:
    """Return the folder for the files, which is created.

    Args:
        out: The folder.

    Raises:
        ConfigError: If it is the folder of a run, whose files have the same names.
        DataError: If it cannot be written.
    """
    folder = Path(out).expanduser()
    if (folder / "report.json").is_file():
        raise ConfigError(
            f"out={out} is the folder of a run, whose predictions.csv would be overwritten; set "
            f"out={out}/evaluation"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write out={out}: {error.strerror}; set out=<folder>") from error
    return folder


def write_evaluation(folder: Path, result: Mapping[str, Any]) -> list[Path]:
    """Write ``metrics.json``, ``per_class.csv``, ``confusion.csv`` and ``predictions.csv``.

    ``groups.csv`` follows if the samples have groups, ``corruptions.csv`` if corrupted images were
    tested.

    ``confusion.csv`` has a row for each pair of a true and a predicted class that occurs. The
    columns of ``predictions.csv`` are those of a run's, after the domain.

    Args:
        folder: Where to write them; files of these names are replaced.
        result: What ``evaluate`` returns.

    Raises:
        DataError: If a file cannot be written.
    """
    domains = result["domains"]
    summary = _without(result, *_ELSEWHERE)
    summary["domains"] = {k: _without(part, "confusion", "classes") for k, part in domains.items()}
    classes = [
        [name, *(one[key] for key in _PER_CLASS)]
        for name, part in domains.items()
        for one in part["classes"]
    ]
    try:
        files = [
            write_json(folder / "metrics.json", summary),
            table(folder / "per_class.csv", ("domain", "class", *_PER_CLASS[1:]), classes),
            table(
                folder / "confusion.csv", ("domain", "true", "predicted", "samples"),
                _confusions(domains, result["classes"]),
            ),
            _predictions(folder / "predictions.csv", result["outputs"], result["classes"]),
        ]  # fmt: skip
        if groups := list(_groups(domains)):
            files.append(table(folder / "groups.csv", ("domain", "column", *_PER_GROUP), groups))
        if rows := list(_corruptions(result.get("corruptions", {}))):
            header = ("domain", "corruption", "severity", "accuracy")
            files.append(table(folder / "corruptions.csv", header, rows))
        return files
    except OSError as error:
        raise DataError(f"cannot write out={folder}: {error.strerror}; set out=<folder>") from error


def _without(part: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name not in names}


def _confusions(domains: Mapping[str, Any], names: Sequence[str]) -> Iterable[Sequence[Any]]:
    for domain, part in domains.items():
        confusion = part["confusion"]
        for true, predicted in np.argwhere(confusion).tolist():
            yield domain, names[true], names[predicted], confusion[true, predicted]


def _groups(domains: Mapping[str, Any]) -> Iterable[Sequence[Any]]:
    for domain, part in domains.items():
        for column, found in part.get("groups", {}).items():
            for one in found["groups"] if found else ():
                yield domain, column, *(one[key] for key in _PER_GROUP)


def _corruptions(found: Mapping[str, Any]) -> Iterable[Sequence[Any]]:
    for domain, part in found.items():
        for name, values in part["accuracy"].items():
            for severity, accuracy in enumerate(values, 1):
                yield domain, name, severity, accuracy


def _predictions(path: Path, outputs: Mapping[str, Outputs], names: Sequence[str]) -> Path:
    rows: list[Sequence[Any]] = []
    for domain, found in outputs.items():
        chances = softmax(found.logits.astype(np.float64), axis=1)
        first, second = np.argsort(-chances, axis=1, kind="stable")[:, :2].T.tolist()
        named = [*names, UNKNOWN]
        labels = [""] * len(first) if found.labels is None else [named[k] for k in found.labels]
        for row, (file, one, two, label) in enumerate(
            zip(found.files, first, second, labels, strict=True)
        ):
            shares = (f"{chances[row, place]:.6f}" for place in (one, two))
            rows.append([domain, file, names[one], next(shares), names[two], next(shares), label])
    header = ("domain", "file", "class", "confidence", "second", "second_confidence", "label")
    return table(path, header, rows)


def table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """Write a table as CSV; empty cells for None."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        cells = ["" if cell is None else str(cell) for cell in row]
        writer.writerow(csv_cell(cell.encode(errors="backslashreplace").decode()) for cell in cells)
    return write_text(path, buffer.getvalue())
