"""The page of a run that a loss has ended: what was known of its last steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tl_lightning.utils.files import write_json, write_text

__all__ = ["write_autopsy"]


def write_autopsy(run_dir: Path, found: Mapping[str, Any]) -> Path:
    """Write ``autopsy.json`` and, as the run's page, ``report.html``; return the page's path.

    Args:
        run_dir: The run's folder.
        found: ``words``, ``epoch``, ``batch``, ``rank``; ``terms`` of the loss, ``rates`` and
            ``gradients`` by parameter group; ``files`` by stream; ``before``, the losses of the
            steps before as ``(epoch, batch, loss)``.
    """
    from tl_lightning.reporting.run.page import fill  # draws, which a training run does not need

    write_json(run_dir / "autopsy.json", found)
    return write_text(
        run_dir / "report.html", fill("autopsy.html.j2", {"run": run_dir.name, **found})
    )
