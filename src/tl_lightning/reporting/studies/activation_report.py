"""Report of the activation study: reads its runs and writes a page and tables."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tl_lightning.reporting.artifacts import Array, Curves, read_curves
from tl_lightning.reporting.formatting import seeds_range
from tl_lightning.reporting.run.page import fill, inline
from tl_lightning.reporting.statistics import Interval, student
from tl_lightning.reporting.studies.activation_claims import Finding, findings, paragraph
from tl_lightning.reporting.studies.activation_figures import (
    convergence,
    dann_dots,
    functions,
    seed_dots,
)
from tl_lightning.reporting.sweep.page import collect
from tl_lightning.utils.files import write_text

__all__ = ["Run", "epochs_to", "is_study", "read_study", "study_table", "write_study"]

#: Heading and description of each part.
PARTS = {
    "heads": (
        "Heads on frozen features",
        "A head with one hidden layer is trained on a frozen network, whose weights are random "
        "unless a pretrained backbone was selected. Only the activation of the head differs.",
    ),
    "cnn": (
        "Convolutional network from scratch",
        "Two blocks of convolution, batch norm, activation and pooling, then a linear layer with "
        "the same activation; all layers are trained.",
    ),
    "vectors": (
        "MLP on 512 vectors of 10 features",
        "One hidden layer of 64 units. The two classes are defined by a smooth random function, "
        "different for every seed; there are 512 validation and 4,096 test vectors.",
    ),
    "dann": (
        "DANN: bottleneck and discriminator",
        "A network is adapted to an unlabelled target by gradient reversal. Bottleneck and "
        "discriminator use the activation under study; the backbone keeps its own.",
    ),
}
ORDER = ("tanh", "relu", "sigmoid", "gelu")
SHARE = 0.95
"""Fraction of the last epoch's validation accuracy at which a run counts as converged."""


@dataclass(frozen=True)
class Run:
    """One run of the study.

    Attributes:
        part: Name of the part, such as ``cnn``.
        activation: Name of the activation under study.
        seed: The run's seed.
        accuracy: Source validation accuracy after each epoch ``(E,)``.
        figures: Measured values, as far as logged: ``test``, ``epochs``, ``saturated``, ``first``,
            ``last``; with a target also ``target`` and ``a_distance``.
    """

    part: str
    activation: str
    seed: int
    accuracy: Array
    figures: dict[str, float]


def epochs_to(accuracy: Array, share: float = SHARE) -> int:
    """Return the first epoch (from 1) that reaches ``share`` of the accuracy of the last one.

    >>> epochs_to(np.array([0.2, 0.7, 0.95, 0.9, 1.0]))
    3
    """
    return int(np.argmax(accuracy >= share * accuracy[-1])) + 1


def is_study(reports: list[dict[str, Any]]) -> bool:
    """Return whether any of the reports belongs to an activation study."""
    return any(_study(report) for report in reports)


def _study(report: Mapping[str, Any]) -> Mapping[str, Any]:
    study: Mapping[str, Any] = (report.get("config") or {}).get("study") or {}
    return study


def read_study(root: Path) -> list[Run]:
    """Return the finished runs of a study below a folder, sorted by part, activation and seed.

    Raises:
        DataError: If the folder contains no runs or a file is corrupt.
    """
    runs = []
    for report in collect(root):
        study = _study(report)
        if not study or report.get("status") != "finished" or report.get("baseline_of"):
            continue
        curves = read_curves(root / report["folder"] / "metrics.csv")
        if "source/val/acc" in curves:
            accuracy = curves["source/val/acc"].per_epoch()[1]
            figures = _figures(report, curves, accuracy)
            part, name = str(study["part"]), str(study["activation"])
            runs.append(Run(part, name, int(report["seed"]), accuracy, figures))
    return sorted(runs, key=lambda r: (_rank(PARTS, r.part), _rank(ORDER, r.activation), r.seed))


def _rank(known: Any, name: str) -> tuple[int, str]:
    names = list(known)
    return (names.index(name) if name in names else len(names), name)


def _figures(report: Mapping[str, Any], curves: Curves, accuracy: Array) -> dict[str, float]:
    metrics = report["metrics"]
    values = {"test": metrics["source/test/acc"], "epochs": float(epochs_to(accuracy))}
    if report["config"].get("method") and "health/a_distance" in curves:
        values["target"] = metrics["target/test/acc"]
        values["a_distance"] = float(curves["health/a_distance"].value[-1])
    saturated = [curves[name].value[-1] for name in _layers(curves, "saturated")]
    if saturated:
        values["saturated"] = float(np.mean(saturated))
    gradients = [float(curves[name].value.mean()) for name in _layers(curves, "grad")]
    if gradients:
        values |= {"first": gradients[0], "last": gradients[-1]}
    return values


def _layers(curves: Curves, statistic: str) -> list[str]:
    """Return the columns of backbone and head layers, from input to output, without methods."""
    columns = [n for n in curves if n.startswith("activation/") and n.endswith(f"/{statistic}")]
    kept = [name for name in columns if not name.startswith("activation/methods.")]
    return sorted(kept, key=lambda n: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", n)])


Cell = Callable[[Interval], str]


def _percent(value: Interval) -> str:
    return _spread(value, 100.0, ".1f")


def _gradient(value: Interval) -> str:
    return _spread(value, spec=".3f")


def _spread(value: Interval, scale: float = 1.0, spec: str = ".2f") -> str:
    """Return mean and standard deviation.

    >>> _spread(Interval(0.5, 0.01, 0.4, 0.6, 3), 100, ".1f")
    '50.0 ± 1.0'
    """
    tail = "" if value.std is None else f" ± {scale * value.std:{spec}}"
    return f"{scale * value.mean:{spec}}{tail}"


#: Name of the measured value, heading, formatter.
COLUMNS: tuple[tuple[str, str, Cell], ...] = (
    ("test", "Test, %", _percent),
    ("target", "Target test, %", _percent),
    ("a_distance", "A-distance", _spread),
    ("epochs", "Epochs to 95 %", lambda v: _spread(v, spec=".1f")),
    ("saturated", "Saturated or dead, %", _percent),
    ("first", "Gradient first", _gradient),
    ("last", "Gradient last", _gradient),
)


@dataclass(frozen=True)
class Line:
    """One activation in one part, aggregated over its seeds."""

    part: str
    activation: str
    seeds: tuple[int, ...]
    values: dict[str, Interval]

    def texts(self) -> list[str]:
        """Return the cells as text, with a dash for missing values."""
        cells = [f(self.values[k]) if k in self.values else "–" for k, _, f in COLUMNS]
        return [self.activation, seeds_range(self.seeds), *cells]


def study_table(runs: list[Run]) -> list[Line]:
    """Return statistics over seeds for every part and activation, in the order of the runs."""
    lines = []
    for part, name in dict.fromkeys((run.part, run.activation) for run in runs):
        members = [run for run in runs if (run.part, run.activation) == (part, name)]
        keys = [key for key, _, _ in COLUMNS if all(key in run.figures for run in members)]
        values = {key: student([run.figures[key] for run in members]) for key in keys}
        lines.append(Line(part, name, tuple(run.seed for run in members), values))
    return lines


def write_study(root: Path) -> Path:
    """Write ``study.html``, ``study.csv`` and ``study.md`` of the study's runs below a folder.

    Args:
        root: Contains the runs, at any depth.

    Returns:
        The path of ``study.html``.

    Raises:
        DataError: If the folder contains no runs.
    """
    runs = read_study(Path(root))
    lines, found = study_table(runs), findings(runs)
    write_text(root / "study.csv", _csv(runs))
    write_text(root / "study.md", _markdown(lines, found))
    return write_text(root / "study.html", fill("study.html.j2", _values(runs, lines, found)))


def _values(runs: list[Run], lines: list[Line], found: list[Finding]) -> dict[str, Any]:
    parts = list(dict.fromkeys(run.part for run in runs))
    tables = {part: [line.texts() for line in lines if line.part == part] for part in parts}
    headings = ["Activation", "Seeds", *(heading for _, heading, _ in COLUMNS)]
    names = sorted({run.activation for run in runs}, key=lambda name: _rank(ORDER, name))
    dann = [run for run in runs if "a_distance" in run.figures]
    sections = [
        {
            "title": PARTS.get(part, (part, ""))[0],
            "description": PARTS.get(part, (part, ""))[1],
            "epochs": max(len(run.accuracy) for run in runs if run.part == part),
            "adapts": any(line.part == part and "a_distance" in line.values for line in lines),
            "curves": inline(convergence([run for run in runs if run.part == part])),
            "dots": inline(seed_dots([run for run in runs if run.part == part])),
            "key": part,
            "lines": texts,
            "shown": [k for k in range(len(headings)) if any(text[k] != "–" for text in texts)],
        }
        for part, texts in tables.items()
    ]
    return {
        "sections": sections,
        "headings": headings,
        "functions": inline(functions(names)),
        "dann": inline(dann_dots(dann)) if dann else "",
        "paragraph": paragraph(found),
        "findings": found,
        "runs": len(runs),
        "seeds": seeds_range(sorted({run.seed for run in runs})),
        "names": names,
    }


def _csv(runs: list[Run]) -> str:
    """Return one CSV line per run, accuracies as fractions."""
    keys = [key for key, _, _ in COLUMNS]
    text = io.StringIO()
    writer = csv.DictWriter(text, ["part", "activation", "seed", *keys], lineterminator="\n")
    writer.writeheader()
    for run in runs:
        row = {"part": run.part, "activation": run.activation, "seed": run.seed}
        writer.writerow(row | run.figures)
    return text.getvalue()


def _markdown(lines: list[Line], found: list[Finding]) -> str:
    headings = ["Part", "Activation", "Seeds", *(heading for _, heading, _ in COLUMNS)]
    rows = [headings, ["---"] * len(headings), *([line.part, *line.texts()] for line in lines)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    claims = "\n".join(f"- {item.verdict}: {item.sentence}" for item in found)
    note = "Mean ± standard deviation over seeds; differences are paired by seed."
    return f"{table}\n\n{note}\n\n{paragraph(found)}\n\n{claims}\n"
