"""The activation study: what its runs measured, by part and activation, in one page and tables."""

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
        "A head with one hidden layer learns on a frozen network; the network's weights are random "
        "unless a pretrained backbone was chosen. Only the head's activation differs.",
    ),
    "cnn": (
        "Convolutional network from scratch",
        "Two blocks of convolution, batch norm, activation and pooling, then a linear layer with "
        "the same activation; everything learns.",
    ),
    "vectors": (
        "MLP on 512 vectors of 10 features",
        "One hidden layer of 64. The two classes are decided by a smooth random function, another "
        "one for every seed; 512 more vectors validate and 4,096 test.",
    ),
    "dann": (
        "DANN: bottleneck and discriminator",
        "A network adapts to an unlabelled target by gradient reversal. Bottleneck and "
        "discriminator have the activation, the backbone keeps its own.",
    ),
}
ORDER = ("tanh", "relu", "sigmoid", "gelu")
SHARE = 0.95
"""A run has converged once its validation accuracy is this share of that after the last epoch."""


@dataclass(frozen=True)
class Run:
    """One run of the study; figures that it does not have are missing.

    Attributes:
        part: Name of the part, such as ``cnn``.
        activation: Name of the activation under study.
        seed: The run's seed.
        accuracy: Source validation accuracy after each epoch ``(E,)``.
        figures: ``test``, ``epochs``, ``saturated``, ``first``, ``last``; of a run with a target
            also ``target`` and ``a_distance``.
    """

    part: str
    activation: str
    seed: int
    accuracy: Array
    figures: dict[str, float]


def epochs_to(accuracy: Array, share: float = SHARE) -> int:
    """Return the first epoch, counted from 1, that reaches ``share`` of the last one's accuracy.

    >>> epochs_to(np.array([0.2, 0.7, 0.95, 0.9, 1.0]))
    3
    """
    return int(np.argmax(accuracy >= share * accuracy[-1])) + 1


def is_study(reports: list[dict[str, Any]]) -> bool:
    """Return whether any of the reports is of a study."""
    return any(_study(report) for report in reports)


def _study(report: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (report.get("config") or {}).get("study") or {}
    return found


def read_study(root: Path) -> list[Run]:
    """Return the finished runs of a study below a folder, by part, activation and seed.

    Raises:
        DataError: If there is no run at all, or a file is broken.
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
    return sorted(runs, key=lambda r: (_place(PARTS, r.part), _place(ORDER, r.activation), r.seed))


def _place(known: Any, name: str) -> tuple[int, str]:
    names = list(known)
    return (names.index(name) if name in names else len(names), name)


def _figures(report: Mapping[str, Any], curves: Curves, accuracy: Array) -> dict[str, float]:
    metrics = report["metrics"]
    found = {"test": metrics["source/test/acc"], "epochs": float(epochs_to(accuracy))}
    if report["config"].get("adapter") and "health/a_distance" in curves:
        found["target"] = metrics["target/test/acc"]
        found["a_distance"] = float(curves["health/a_distance"].value[-1])
    shares = [curves[name].value[-1] for name in _layers(curves, "saturated")]
    if shares:
        found["saturated"] = float(np.mean(shares))
    gradients = [float(curves[name].value.mean()) for name in _layers(curves, "grad")]
    if gradients:
        found |= {"first": gradients[0], "last": gradients[-1]}
    return found


def _layers(curves: Curves, what: str) -> list[str]:
    """Return the columns of backbone and head from input to output; adapters stand beside them."""
    columns = [n for n in curves if n.startswith("activation/") and n.endswith(f"/{what}")]
    kept = [name for name in columns if not name.startswith("activation/adapters.")]
    return sorted(kept, key=lambda n: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", n)])


Cell = Callable[[Interval], str]


def _percent(value: Interval) -> str:
    return _spread(value, 100.0, ".1f")


def _gradient(value: Interval) -> str:
    return _spread(value, form=".3f")


def _spread(value: Interval, scale: float = 1.0, form: str = ".2f") -> str:
    """Return mean and standard deviation.

    >>> _spread(Interval(0.5, 0.01, 0.4, 0.6, 3), 100, ".1f")
    '50.0 ± 1.0'
    """
    tail = "" if value.std is None else f" ± {scale * value.std:{form}}"
    return f"{scale * value.mean:{form}}{tail}"


#: Figure, heading, how it is written.
COLUMNS: tuple[tuple[str, str, Cell], ...] = (
    ("test", "Test, %", _percent),
    ("target", "Target test, %", _percent),
    ("a_distance", "A-distance", _spread),
    ("epochs", "Epochs to 95 %", lambda v: _spread(v, form=".1f")),
    ("saturated", "Saturated or dead, %", _percent),
    ("first", "Gradient first", _gradient),
    ("last", "Gradient last", _gradient),
)


@dataclass(frozen=True)
class Line:
    """One activation in one part over its seeds."""

    part: str
    activation: str
    seeds: tuple[int, ...]
    values: dict[str, Interval]

    def texts(self) -> list[str]:
        """Return the line as text, a dash where a part has no such figure."""
        cells = [w(self.values[k]) if k in self.values else "–" for k, _, w in COLUMNS]
        return [self.activation, seeds_range(self.seeds), *cells]


def study_table(runs: list[Run]) -> list[Line]:
    """Return mean and spread over the seeds of every part and activation, in the runs' order."""
    lines = []
    for part, name in dict.fromkeys((run.part, run.activation) for run in runs):
        own = [run for run in runs if (run.part, run.activation) == (part, name)]
        keys = [key for key, _, _ in COLUMNS if all(key in run.figures for run in own)]
        values = {key: student([run.figures[key] for run in own]) for key in keys}
        lines.append(Line(part, name, tuple(run.seed for run in own), values))
    return lines


def write_study(root: Path) -> Path:
    """Write ``study.html``, ``study.csv`` and ``study.md`` of the study's runs below a folder.

    Args:
        root: Holds the runs, at any depth.

    Returns:
        The path of ``study.html``.

    Raises:
        DataError: If there is no run below the folder.
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
    names = sorted({run.activation for run in runs}, key=lambda name: _place(ORDER, name))
    dann = [run for run in runs if "a_distance" in run.figures]
    sections = [
        {
            "title": PARTS.get(part, (part, ""))[0],
            "words": PARTS.get(part, (part, ""))[1],
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
    """Return one line a run, with plain numbers (fractions, not per cent)."""
    keys = [key for key, _, _ in COLUMNS]
    text = io.StringIO()
    writer = csv.DictWriter(text, ["part", "activation", "seed", *keys], lineterminator="\n")
    writer.writeheader()
    for run in runs:
        own = {"part": run.part, "activation": run.activation, "seed": run.seed}
        writer.writerow(own | run.figures)
    return text.getvalue()


def _markdown(lines: list[Line], found: list[Finding]) -> str:
    headings = ["Part", "Activation", "Seeds", *(heading for _, heading, _ in COLUMNS)]
    rows = [headings, ["---"] * len(headings), *([line.part, *line.texts()] for line in lines)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    claims = "\n".join(f"- {item.verdict}: {item.sentence}" for item in found)
    note = "Mean ± standard deviation over seeds; differences are paired by seed."
    return f"{table}\n\n{note}\n\n{paragraph(found)}\n\n{claims}\n"
