"""``predictions.csv`` of a run, and a summary of predictions without labels for its report."""

from __future__ import annotations

import csv
import io
from collections import Counter
from pathlib import Path
from typing import Any

from tl_lightning.callbacks.report_collector import ReportCollector
from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.utils.files import write_text
from tl_lightning.utils.text import csv_cell

__all__ = ["summary_of", "write_predictions"]

COLUMNS = ("file", "class", "confidence", "second", "second_confidence")


def write_predictions(
    path: Path, data: TransferDataModule, collector: ReportCollector
) -> Path | None:
    """Write the predictions for the test samples of the target, in their order.

    ``confidence`` is the probability of the predicted class; ``second`` is the next likeliest one.
    With ``rejection``, ``unknown`` says whether the sample is taken for none of the classes. If the
    samples have labels, a column ``label`` follows. Samples that are not files have names in
    the column ``file``. Of labels that are not classes, there is a column for each output, and
    another one with ``label`` before its name if the samples have labels.

    Args:
        path: The CSV file.
        data: The data module that was tested.
        collector: Has the predictions.

    Returns:
        The path, or None without a target.
    """
    if collector.values.get("target"):
        return _write_values(path, data, collector)
    scores = collector.scores.get("target", {})
    if not scores:
        return None
    split = data.found["target"].test
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names, rejected = data.found["target"].classes, collector.rejected
    added = [*(["unknown"] if rejected else ()), *(["label"] if split.has_labels else ())]
    writer.writerow((*COLUMNS, *added))
    for index in sorted(scores):
        true, first, confidence, second, next_confidence = scores[index]
        row = [split.files[index], data.classes[first], f"{confidence:.6f}"]
        row += [data.classes[second], f"{next_confidence:.6f}"]
        row += [str(rejected[index]).lower()] if rejected else []
        row += [names[true]] if split.has_labels else []
        cells = [str(cell).encode(errors="backslashreplace").decode() for cell in row]
        writer.writerow(map(csv_cell, cells))
    return write_text(path, buffer.getvalue())


def _write_values(path: Path, data: TransferDataModule, collector: ReportCollector) -> Path:
    values, split = collector.values["target"], data.found["target"].test
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    labelled = [f"label {name}" for name in data.classes] if split.has_labels else []
    writer.writerow(map(csv_cell, ("file", *data.classes, *labelled)))
    for index in sorted(values):
        true, predicted = values[index]
        file = str(split.files[index]).encode(errors="backslashreplace").decode()
        # Nine significant digits give back any float32.
        numbers = [f"{value:.9g}" for value in (*predicted, *(true or ()))]
        writer.writerow((csv_cell(file), *numbers))
    return write_text(path, buffer.getvalue())


def summary_of(data: TransferDataModule, collector: ReportCollector) -> dict[str, Any]:
    """Return the predictions of each domain without labels, summarised.

    ``{domain: {"samples": number, "confidence": mean, "classes": {name: number}}}``, with every
    class, also those that are never predicted.
    """
    found = {}
    for domain in sorted(collector.unlabelled & collector.scores.keys()):
        rows = collector.scores[domain].values()
        counts = Counter(row[1] for row in rows)
        found[domain] = {
            "samples": len(rows),
            "confidence": sum(row[2] for row in rows) / len(rows),
            "classes": {name: counts[label] for label, name in enumerate(data.classes)},
        }
    return found
