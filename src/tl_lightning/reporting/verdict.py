"""The sentence that a run ends with: whether adaptation helped, and how little one seed says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tl_lightning.reporting.formatting import BASELINES, taught_by_target, uses_target_labels
from tl_lightning.reporting.sweep.compare import Group, compare
from tl_lightning.utils.text import flatten

__all__ = ["advice", "run_verdict"]

Run = Mapping[str, Any]


def run_verdict(report: Run, bracket: Sequence[Run]) -> str | None:
    """Return whether a run helped over the first of its baselines; None where nothing can be said.

    Args:
        report: The run's report.
        bracket: The reports of the baselines beside it.

    >>> run = {"name": "dann", "data": "d", "seed": 0, "metrics": {"target/test/acc": 0.75}}
    >>> base = run | {"name": "source_only", "metrics": {"target/test/acc": 0.5}}
    >>> run_verdict(run, [base])
    'dann helped by 25.0 points over source-only in one seed; one seed says nothing about spread.'
    """
    own, others = _group(report), [_group(run) for run in bracket]
    for name in BASELINES if own.accuracies("target") else ():
        candidates = [other for other in others if other.name == name]
        if candidates:
            labels = {group.key: group.name for group in (own, *candidates)}
            return compare(own, candidates, name, labels, uses_target_labels(report)).sentence
    return None


def advice(report: Run, bracket: Sequence[Run]) -> dict[str, str] | None:
    """Say what is missing for the figure to mean something, and what to type."""
    if report.get("name") in BASELINES or report.get("baseline_of") or taught_by_target(report):
        return None
    adapted = (report.get("config") or {}).get("adapter", True)
    named = any(run.get("name") in BASELINES for run in bracket)
    if named or not _group(report).accuracies("target") or not adapted:
        return None  # or nothing was adapted: the model is its own baseline
    config = report.get("config") or {}
    if str((config.get("model") or {}).get("_target_")).endswith(".SourceFree"):
        return {  # such a run trains no baseline: it is held against the model that it began with
            "text": "What the model was worth before it adapted is not in this folder.",
            "command": f"evaluate.py checkpoint={config.get('init')}",
        }
    return {
        "text": "There is no source-only baseline in this folder: a figure without it says little.",
        # Data, backbone and rates stand in that command, and nowhere in a shorter one.
        "command": "the same command with bracket=true",
    }


def _group(run: Run) -> Group:
    key = (str(run.get("name")), str(run.get("data")), str(run.get("group")))
    return Group(key, {int(run.get("seed") or 0): run}, flatten(run.get("config")))
