"""Accuracy by named domain on the page of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tl_lightning.reporting.formatting import percent

__all__ = ["domain_tables"]


def domain_tables(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return by ``source`` and ``target`` a row for each of its domains, where it has several.

    A row has ``name``, ``train`` and ``test`` (numbers of samples), ``accuracy`` on the test
    samples and whether it is the ``worst``. ``mean`` is the mean of the accuracies.

    Args:
        report: Result of :func:`tl_lightning.reporting.schema.read_report`.
    """
    metrics = report.get("metrics") or {}
    named = (report.get("dataset") or {}).get("domains") or {}
    return {role: _table(role, found, metrics) for role, found in named.items() if found}


def _table(
    role: str, found: Mapping[str, Mapping[str, int]], metrics: Mapping[str, Any]
) -> dict[str, Any]:
    accuracies = {name: metrics.get(f"{role}/test/acc_{name.replace('/', '_')}") for name in found}
    worst = metrics.get(f"{role}/test/worst_domain_acc")
    rows = [
        {
            "name": name,
            "train": f"{counts.get('train', 0):,}",
            "test": f"{counts.get('test', 0):,}",
            "accuracy": percent(accuracies[name]),
            "worst": worst is not None and accuracies[name] == worst,
        }
        for name, counts in found.items()
    ]
    return {"rows": rows, "mean": percent(metrics.get(f"{role}/test/mean_domain_acc"))}
