"""Reader for the logged scores and accuracies of the runs of a validator study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tl_lightning.errors import DataError
from tl_lightning.reporting.artifacts import Array, Curves, read_curves
from tl_lightning.reporting.formatting import domains_of
from tl_lightning.reporting.schema import fingerprint_of
from tl_lightning.reporting.sweep.page import collect
from tl_lightning.selection.scores import SCORES

__all__ = ["Trace", "read_traces"]


@dataclass(frozen=True)
class Trace:
    """Values that a run with ``track_target=true`` logged in each validation.

    Attributes:
        name: Name of the model.
        data: Name of the dataset, with the domains if the study has several pairs of them.
        seed: The run's seed.
        folder: The run's folder, relative to that of the study.
        num_classes: Number of classes.
        ratio: The run's ``callbacks.validators.min_source_ratio``.
        epoch: Zero-based epochs ``(E,)``.
        accuracy: Accuracy on labelled target validation data ``(E,)``; not visible to any rule.
        source_acc: Accuracy on source validation data ``(E,)``.
        raw: Unfiltered scores ``(E,)`` by name; higher is better.
        filtered: Scores ``(E,)`` by name, after the collapse filter.
    """

    name: str
    data: str
    seed: int
    folder: str
    num_classes: int
    ratio: float
    epoch: Array
    accuracy: Array
    source_acc: Array
    raw: dict[str, Array] = field(repr=False)
    filtered: dict[str, Array] = field(repr=False)


def read_traces(root: Path) -> tuple[list[Trace], list[str]]:
    """Return the runs below a folder that can be compared, and notes on excluded ones.

    Raises:
        DataError: If the folder contains no runs, none logged target accuracy or a file is corrupt.
    """
    traces: dict[tuple[Any, ...], Trace] = {}
    domains: dict[str, str] = {}
    versions: dict[tuple[str, str], dict[str | None, list[str]]] = {}
    untracked = repeated = trained = 0
    for report in collect(root):
        if report.get("kind") != "run" or report.get("status") != "finished":
            continue
        if report.get("learned_from") == "target":
            trained += 1
            continue
        curves = read_curves(root / report["folder"] / "metrics.csv")
        if not {"target/val/acc", f"validator/floored/{next(iter(SCORES))}"} <= curves.keys():
            untracked += 1
            continue
        key: tuple[Any, ...] = (
            *(str(report.get(name)) for name in ("name", "data", "seed", "group")),
            fingerprint_of(report),
        )
        repeated += key in traces
        traces.setdefault(key, _trace(report, curves))
        folder = report["folder"]
        domains[folder] = domains_of(report["config"].get("data") or {})
        version = versions.setdefault((report["data"], domains[folder]), {})
        version.setdefault(fingerprint_of(report), []).append(folder)
    for version in versions.values():
        for fingerprint, folders in version.items() if len(version) > 1 else ():
            domains |= {one: f"{domains[one]}, data {str(fingerprint)[:8]}" for one in folders}
    if not traces:
        raise DataError(
            f"no run in {root} logged target accuracy in every validation (runs without it: "
            f"{untracked}); run tl-train -m ... track_target=true with callbacks.validators"
        )
    notes = [f"Excluded runs without track_target=true: {untracked}."] if untracked else []
    notes += [f"Excluded runs trained on target labels: {trained}."] if trained else []
    notes += [f"Repeated runs counted once: {repeated}."] if repeated else []
    named = _with_domains(list(traces.values()), domains)
    return sorted(named, key=lambda t: (t.data, t.seed, t.name, t.folder)), notes


def _with_domains(traces: Sequence[Trace], domains: Mapping[str, str]) -> list[Trace]:
    """Append the domains to the name of each dataset that has several pairs of domains."""
    pairs = {(trace.data, domains[trace.folder]) for trace in traces}
    ambiguous = {data for data, count in Counter(data for data, _ in pairs).items() if count > 1}
    return [
        replace(trace, data=f"{trace.data} ({domains[trace.folder]})")
        if trace.data in ambiguous
        else trace
        for trace in traces
    ]


def _trace(report: Mapping[str, Any], curves: Curves) -> Trace:
    epoch, accuracy = curves["target/val/acc"].per_epoch()
    columns = {"source": "validator/source_val"}
    columns |= {f"raw/{name}": f"validator/{name}" for name in SCORES}
    columns |= {f"filtered/{name}": f"validator/floored/{name}" for name in SCORES}
    values: dict[str, Array] = {}
    for key, column in columns.items():
        series = dict(zip(*curves[column].per_epoch(), strict=True)) if column in curves else {}
        if not set(epoch) <= series.keys():
            raise DataError(
                f"{report['folder']}/metrics.csv has no {column} for some epochs that have "
                "target/val/acc; delete the run's folder and run it again with callbacks=default"
            )
        values[key] = np.array([series[e] for e in epoch])
    params = report["config"]["callbacks"]["validators"]
    return Trace(
        name=str(report["name"]),
        data=str(report["data"]),
        seed=int(report["seed"]),
        folder=str(report["folder"]),
        num_classes=len(report["dataset"]["classes"]),
        ratio=float(params["min_source_ratio"]),
        epoch=epoch.astype(int),
        accuracy=accuracy,
        source_acc=values["source"],
        raw={name: values[f"raw/{name}"] for name in SCORES},
        filtered={name: values[f"filtered/{name}"] for name in SCORES},
    )
