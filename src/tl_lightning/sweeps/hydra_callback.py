"""Hydra callback that writes the table of a sweep."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from tl_lightning.sweeps.jobs import swept_models
from tl_lightning.sweeps.page_writer import page_writer

__all__ = ["SweepCallback"]


class SweepCallback(Callback):
    """Write the table of a sweep after its last job."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Pass the swept models on to processes started by a launcher."""
        os.environ["TL_SWEPT_MODELS"] = ",".join(swept_models())

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write and print the table, in the main process and only if the launcher has waited."""
        page_writer.wait()
        is_job = "TL_PART_OF_SWEEP" in os.environ  # a process started by a launcher
        if not is_job and config.hydra.launcher.get("wait", True):
            # Only now: Hydra makes this callback before it composes, and so before every error.
            from tl_lightning.reporting.console import report_folder

            report_folder(Path(config.hydra.sweep.dir))
