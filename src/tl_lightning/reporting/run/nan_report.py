"""Page of a run that was stopped by a non-finite loss."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tl_lightning.utils.files import write_json, write_text

__all__ = ["write_nan_report"]


def write_nan_report(run_dir: Path, found: Mapping[str, Any]) -> Path:
    """Write ``nan_report.json`` and ``report.html``; return the path of the page.

    Args:
        run_dir: The run's folder.
        found: ``message``, ``epoch``, ``batch``, ``rank``; ``terms`` of the loss; ``rates`` and
            ``gradients`` by parameter group; ``files`` by stream; ``before``, the losses of the
            previous steps as ``(epoch, batch, loss)``.
    """
    from tl_lightning.reporting.run.page import fill  # imports plotting code, not needed before

    write_json(run_dir / "nan_report.json", found)
    return write_text(run_dir / "report.html", fill("nan.html.j2", {"run": run_dir.name, **found}))
