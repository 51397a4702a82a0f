"""Estimated target accuracies of the runs of a sweep, compared with each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tl_lightning.errors import DataError
from tl_lightning.reporting.estimates import compared, read_stored_run

__all__ = ["with_comparisons"]


def with_comparisons(reports: Sequence[Mapping[str, Any]], root: Path) -> list[dict[str, Any]]:
    """Return the reports with estimates that are compared with the other models of the sweep.

    Only those of finished runs on a target without labels change, since the others have no column
    for it; the files of the runs do not. A run whose files are damaged keeps its own estimate and
    gets an entry ``not_compared`` with the reason.

    Args:
        reports: Result of :func:`tl_lightning.reporting.sweep.page.collect`.
        root: The folder of the sweep.
    """
    changed = [dict(report) for report in reports]
    runs = []
    for report in changed:
        if not (report.get("predicted") or {}).get("target"):
            continue
        try:
            run = read_stored_run(root / report["folder"])
        except DataError as error:
            report["not_compared"] = str(error)
            continue
        if run is not None:
            runs.append((report, run))
    for report, run in runs:
        others = [other for _, other in runs if other is not run]
        report.update(compared(run, others, root))
    return changed
