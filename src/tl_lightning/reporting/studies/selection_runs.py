"""What the runs of a validator study logged, read from their folders."""

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
from tl_lightning.reporting.sweep.page import collect

__all__ = ["SCORES", "Trace", "read_traces"]

#: Scores that may prefer a collapsed model, and so are looked at with and without the floor.
SCORES = ("entropy", "im", "bnm", "snd", "dev", "iwcv")


@dataclass(frozen=True)
class Trace:
    """What a run with ``track_target=true`` logged, a value a validation.

    Attributes:
        name: Of the model.
        data: Of the data set, with the domains where a study has several pairs of them.
        seed: The run's seed.
        folder: Below the folder of the study.
        num_classes: Classes in all.
        ratio: The run's ``callbacks.validators.floor_ratio``.
        epoch: Counted from 0 ``(E,)``.
        accuracy: On labelled target validation ``(E,)``; what no rule sees.
        source_acc: On source validation ``(E,)``.
        raw: Each score ``(E,)``, higher is better.
        floored: Each score under the floor ``(E,)``.
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
    floored: dict[str, Array] = field(repr=False)


def read_traces(root: Path) -> tuple[list[Trace], list[str]]:
    """Return the runs below a folder that can be compared, and notes on those left out.

    Raises:
        DataError: If there is no run at all, none that logged target accuracy, or a broken file.
    """
    traces: dict[tuple[Any, ...], Trace] = {}
    between: dict[str, str] = {}
    silent = again = taught = 0
    for report in collect(root):
        if report.get("kind") != "run" or report.get("status") != "finished":
            continue
        if report.get("learned_from") == "target":
            taught += 1
            continue
        curves = read_curves(root / report["folder"] / "metrics.csv")
        if not {"target/val/acc", "validator/floored/snd"} <= curves.keys():
            silent += 1
            continue
        key = tuple(str(report.get(name)) for name in ("name", "data", "seed", "group"))
        again += key in traces
        traces.setdefault(key, _trace(report, curves))
        between[report["folder"]] = domains_of(report["config"])
    if not traces:
        raise DataError(
            f"no run in {root} logged accuracy on the target in every validation ({silent} did "
            "not); type tl-train -m ... track_target=true with callbacks.validators"
        )
    notes = [f"{silent} runs without track_target=true are left out."] if silent else []
    notes += [f"{taught} runs that learned from target labels are left out."] if taught else []
    notes += [f"{again} repeated runs are counted once."] if again else []
    told = _told_apart(list(traces.values()), between)
    return sorted(told, key=lambda t: (t.data, t.seed, t.name, t.folder)), notes


def _told_apart(traces: Sequence[Trace], between: Mapping[str, str]) -> list[Trace]:
    """Return them with the domains beside the name of data of which there are several pairs."""
    pairs = {(trace.data, between[trace.folder]) for trace in traces}
    several = {data for data, count in Counter(data for data, _ in pairs).items() if count > 1}
    return [
        replace(trace, data=f"{trace.data} ({between[trace.folder]})")
        if trace.data in several
        else trace
        for trace in traces
    ]


def _trace(report: Mapping[str, Any], curves: Curves) -> Trace:
    epoch, accuracy = curves["target/val/acc"].per_epoch()
    columns = {"source": "validator/source_val"}
    columns |= {f"raw/{name}": f"validator/{name}" for name in SCORES}
    columns |= {f"floored/{name}": f"validator/floored/{name}" for name in SCORES}
    found: dict[str, Array] = {}
    for key, column in columns.items():
        series = dict(zip(*curves[column].per_epoch(), strict=True)) if column in curves else {}
        if not set(epoch) <= series.keys():
            raise DataError(
                f"{report['folder']}/metrics.csv has no {column} in some epochs that have "
                "target/val/acc; delete the run's folder and run it again with callbacks=default"
            )
        found[key] = np.array([series[e] for e in epoch])
    knobs = report["config"]["callbacks"]["validators"]
    return Trace(
        name=str(report["name"]),
        data=str(report["data"]),
        seed=int(report["seed"]),
        folder=str(report["folder"]),
        num_classes=len(report["dataset"]["classes"]),
        ratio=float(knobs["floor_ratio"]),
        epoch=epoch.astype(int),
        accuracy=accuracy,
        source_acc=found["source"],
        raw={name: found[f"raw/{name}"] for name in SCORES},
        floored={name: found[f"floored/{name}"] for name in SCORES},
    )
