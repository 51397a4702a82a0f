"""Checks of the ``report`` settings."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from tl_lightning.callbacks.report_collector import PROJECTIONS
from tl_lightning.errors import nearest

__all__ = ["projection_problems"]


def projection_problems(projection: Any) -> list[str]:
    """Return the problems of ``report.projection``.

    >>> projection_problems("pca")
    []
    """
    if projection not in PROJECTIONS:
        hint = nearest(str(projection), PROJECTIONS)
        return [f"report.projection={projection} is not a projection; {hint}"]
    if projection == "umap" and find_spec("umap") is None:
        return [
            "report.projection=umap needs the package umap-learn; run pip install "
            "'tl_lightning[umap]', or set report.projection=tsne"
        ]
    return []
