"""Checks of the settings of the report."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from tl_lightning.callbacks.report_collector import PROJECTIONS
from tl_lightning.errors import nearest

__all__ = ["projection_faults"]


def projection_faults(wish: Any) -> list[str]:
    """Return why features cannot be projected as asked.

    >>> projection_faults("pca")
    []
    """
    if wish not in PROJECTIONS:
        hint = nearest(str(wish), PROJECTIONS)
        return [f"report.projection={wish} is no projection; {hint}"]
    if wish == "umap" and find_spec("umap") is None:
        return [
            "report.projection=umap needs the package umap-learn; type pip install "
            "'tl_lightning[umap]', or report.projection=tsne"
        ]
    return []
