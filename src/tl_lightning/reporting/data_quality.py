"""Lists of suspicious samples as a CSV file and as a page with the images."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tl_lightning.reporting.formatting import percent
from tl_lightning.utils.files import write_text
from tl_lightning.utils.text import csv_cell

__all__ = ["KINDS", "write_lists", "write_quality_page"]

COLUMNS = ("finding", "rank", "file", "domain", "split", "label", "suggested", "score")
#: Headings and explanations of the lists.
KINDS: Mapping[str, tuple[str, str]] = {
    "label_error": (
        "Probable label errors",
        "The label that the folder or table gives is improbable for a classifier that was fitted "
        "without the sample; its probability is shown. Below it: the class suggested instead. In "
        "data with classes that look alike, right labels of difficult samples are among them, "
        "mostly at the end of the list.",
    ),
    "outlier": (
        "Outliers",
        "The samples that are least like any other, with the distance of their tenth nearest "
        "sample relative to the median of all. The number of listed samples is fixed, so many of "
        "them may be fine.",
    ),
    "ambiguous": (
        "Ambiguous samples",
        "The two likeliest classes have almost the same probability; their difference is shown, "
        "and the likeliest class. The number of listed samples is fixed.",
    ),
}


def write_lists(path: Path, findings: Sequence[Mapping[str, Any]]) -> Path:
    """Write all findings as a CSV file, by kind and rank; return the path."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in findings:
        shown = {**row, "score": f"{row['score']:.4g}"}
        cells = ["" if shown[name] is None else str(shown[name]) for name in COLUMNS]
        writer.writerow(map(csv_cell, cells))
    return write_text(path, buffer.getvalue())


def write_quality_page(
    path: Path,
    name: str,
    quality: Mapping[str, Any],
    images: Mapping[tuple[str, str, int], bytes],
) -> Path:
    """Write a self-contained page with the images of the findings; return the path.

    Args:
        path: The HTML file.
        name: Name of the dataset.
        quality: Plain values of :class:`tl_lightning.evaluation.data_quality.Quality`.
        images: JPEG files by finding, domain and rank. Those without one are in the CSV
            file only.
    """
    from tl_lightning.reporting.run.page import fill, inline  # imports plotting code

    lists = []
    for kind, (heading, text) in KINDS.items():
        rows = [row for row in quality["findings"] if row["finding"] == kind]
        shown = [
            {**row, "image": inline(images[key], "jpeg"), "name": _short(row["file"])}
            for row in rows
            if (key := (kind, row["domain"], row["rank"])) in images
        ]
        lists.append({"kind": kind, "heading": heading, "text": text, "rows": shown,
                      "total": len(rows)})  # fmt: skip
    values = {
        "name": name,
        "quality": quality,
        "lists": lists,
        "accuracy": {domain: percent(value) for domain, value in quality["accuracy"].items()},
        "csv": path.with_suffix(".csv").name,
    }
    return write_text(path, fill("quality.html.j2", values))


def _short(file: str) -> str:
    """Return the last two parts of a path.

    >>> _short("/data/dogs/train/pug/a.jpg"), _short("7")
    ('pug/a.jpg', '7')
    """
    return "/".join(Path(file).parts[-2:])
