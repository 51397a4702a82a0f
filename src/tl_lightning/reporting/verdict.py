"""Verdict at the end of a run: comparison with its baselines, or advice to run them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tl_lightning.config.schema import BASELINES
from tl_lightning.reporting.artifacts import read_predictions
from tl_lightning.reporting.formatting import trained_on_target, uses_target_labels
from tl_lightning.reporting.measure import ACCURACY, measure_of
from tl_lightning.reporting.statistics import Interval, newcombe
from tl_lightning.reporting.sweep.compare import Group, compare
from tl_lightning.reporting.sweep.held_out import PROBE
from tl_lightning.utils.text import flatten

__all__ = ["advice", "on_several_devices", "paired_interval", "run_verdict"]

Run = Mapping[str, Any]


def run_verdict(report: Run, baselines: Sequence[Run], folder: Path | None = None) -> str | None:
    """Return the comparison of a run with its first baseline or the frozen probe, or None.

    Args:
        report: The run's report.
        baselines: The reports of its baselines.
        folder: The run's folder, whose predictions give an interval of the difference.

    >>> run = {"name": "dann", "data": "d", "seed": 0, "metrics": {"target/test/acc": 0.75}}
    >>> base = run | {"name": "source_only", "metrics": {"target/test/acc": 0.5}}
    >>> run_verdict(run, [base])
    'dann is 25.0 points better than source-only with one seed; the spread over seeds is unknown.'
    """
    if change := _change(report):
        return change
    own, others = _group(report), [_group(run) for run in baselines]
    for name in BASELINES if own.accuracies("target") else ():
        candidates = [other for other in others if other.name == name]
        if candidates:
            labels = {group.key: group.name for group in (own, *candidates)}
            plain = folder is None or own.measure is not ACCURACY
            paired = None if plain else paired_interval(report, folder, name)  # type: ignore[arg-type]
            bound = uses_target_labels(report)
            return compare(own, candidates, name, labels, bound, paired=paired).sentence
    return _over_probe(report)


def _over_probe(report: Run) -> str | None:
    """Return how the kept model of ``model=auto`` compares with the frozen probe, or None."""
    start = report.get("start") or {}
    if not start.get("complete"):  # other runs have baselines, or advice to train them
        return None
    found = {one["name"]: one["metrics"].get("target/test/acc") for one in start["candidates"]}
    before, after = found.get(PROBE), (report.get("metrics") or {}).get("target/test/acc")
    if before is None or after is None:
        return None
    if start.get("chosen") == PROBE:
        return f"The {PROBE} is kept: no other model has a higher score."
    return (
        f"{start.get('chosen')} has {100 * after:.1f} % on the target, the {PROBE} "
        f"{100 * before:.1f} % ({100 * (after - before):+.1f} points), with one seed; the spread "
        "over seeds is unknown."
    )


def _change(report: Run) -> str | None:
    """Return the figure of a source-free run before and after adaptation, or None."""
    measure = measure_of(report)
    key = f"target/test/{measure.metric}"
    values = [(report.get(part) or {}).get(key) for part in ("initial", "metrics")]
    if not all(isinstance(value, (int, float)) for value in values):
        return None
    before, after = (float(value) for value in values if value is not None)
    unit = "" if measure.lower_is_better else " points"
    return (
        f"The {measure.label} on the target was {measure.text(before)} before adaptation and is "
        f"{measure.text(after)} after it ({measure.difference(after - before)}{unit})."
    )


def paired_interval(report: Run, folder: Path, name: str) -> Interval | None:
    """Return the difference of target accuracy from a baseline on the same test samples.

    None unless the predictions of both are there, for the same samples, and those of the run are
    those of its report.
    """
    classes = [str(item) for item in (report.get("dataset") or {}).get("classes") or []]
    folders = (folder, folder / "baselines" / name)
    pairs = [read_predictions(path / "predictions.npz", classes).pair("target") for path in folders]
    if pairs[0] is None or pairs[1] is None or not np.array_equal(pairs[0][0], pairs[1][0]):
        return None
    own, base = (true == pred for true, pred in filter(None, pairs))
    accuracy = (report.get("metrics") or {}).get("target/test/acc")
    if not isinstance(accuracy, (int, float)) or abs(float(own.mean()) - accuracy) > 1e-3:
        return None
    counts = (own & base, own & ~base, ~own & base, ~own & ~base)
    return newcombe(*(int(part.sum()) for part in counts))


def advice(report: Run, baselines: Sequence[Run]) -> dict[str, str] | None:
    """Return which baseline is missing (``text``) and the command that runs it, or None."""
    if report.get("name") in BASELINES or report.get("baseline_of") or trained_on_target(report):
        return None
    adapted = (report.get("config") or {}).get("method", True)
    if (report.get("predicted") or {}).get("target"):
        return {
            "text": f"The {measure_of(report).label} on the target is unknown, since it has no "
            "labels.",
            "command": "evaluate.py checkpoint=<this folder> data.target.test=<labelled samples>",
        }
    has_baseline = any(run.get("name") in BASELINES for run in baselines) or _over_probe(report)
    if has_baseline or not _group(report).accuracies("target") or not adapted:
        return None  # without a method the model is its own baseline
    config = report.get("config") or {}
    if _change(report):
        return None
    if "target" in (report.get("unseen") or ()):
        return {
            "text": "Compare with model=erm, the mean loss of all source samples.",
            "command": "the same command with model=erm, or experiment=leave_one_out",
        }
    if report.get("source_free"):
        return {  # source-free runs train no baseline; compare with the initial model instead
            "text": f"The {measure_of(report).label} of the model before adaptation is not in "
            "this folder.",
            "command": f"evaluate.py checkpoint={config.get('init')}",
        }
    # Only the full command has the data, backbone and learning rates.
    several = ((report.get("scale") or {}).get("processes") or 1) > 1
    hint = on_several_devices(str(report.get("name"))) if several else "baselines=true"
    return {
        "text": "No source-only baseline found in this folder to compare the "
        f"{_group(report).measure.label} with.",
        "command": f"the same command with {hint}",
    }


def on_several_devices(name: str, baselines: Sequence[str] = ("source_only",)) -> str:
    """Return how to train baselines of a model on several devices, as jobs of a sweep.

    >>> on_several_devices("dann")
    '-m model=source_only,dann'
    """
    return f"-m model={','.join([*baselines, name])}"


def _group(run: Run) -> Group:
    key = (str(run.get("name")), str(run.get("data")), str(run.get("group")))
    return Group(key, {int(run.get("seed") or 0): run}, flatten(run.get("config")))
