"""The Hydra callback that writes a sweep's table."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from tl_lightning.reporting.console import report_folder
from tl_lightning.sweeps.jobs import swept_models

__all__ = ["SweepTables"]


class SweepTables(Callback):
    """Write the table of a sweep when its last job ends."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Tell the processes that a launcher starts what they are part of."""
        os.environ["TL_SWEPT_MODELS"] = ",".join(swept_models())

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write and print the sweep's table, once, and not before its jobs have begun."""
        part = "TL_PART_OF_SWEEP" in os.environ  # a process that a launcher started
        if not part and config.hydra.launcher.get("wait", True):
            report_folder(Path(config.hydra.sweep.dir))
