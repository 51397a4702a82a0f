"""The name of a run's folder, the same on every rank."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path

from tl_lightning.errors import ConfigError

__all__ = ["run_id"]


def run_id() -> str:
    """Return one id for this command, the same in every rank and job that it starts.

    A time stamp taken anew by each rank would give each its own folder.
    """
    found = os.environ.get("TL_RUN_ID", "")
    if found:
        return found
    if "SLURM_JOB_ID" in os.environ:
        # Two commands of one job may not write into one folder; a restart types the same again.
        typed = hashlib.sha256("\n".join(sys.argv[1:]).encode()).hexdigest()[:8]
        found = f"{os.environ['SLURM_JOB_ID']}-{typed}"
    elif os.environ.get("TORCHELASTIC_RUN_ID", "none") != "none":
        found = os.environ["TORCHELASTIC_RUN_ID"]
    else:
        found = _torchrun_id() or f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    os.environ["TL_RUN_ID"] = found
    return found


def _torchrun_id() -> str:
    """Return an id that the ranks of a torchrun without ``--rdzv-id`` share; empty outside of one.

    Raises:
        ConfigError: If there are several nodes, which then share none.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return ""
    if os.environ.get("WORLD_SIZE") != os.environ.get("LOCAL_WORLD_SIZE"):
        raise ConfigError(
            "torchrun has no id that its nodes share, and each would write a folder of its own; "
            "type torchrun --rdzv-id=<a name for this run> ..., or export TL_RUN_ID=<name>"
        )
    # When torchrun itself began, which started all ranks: clock ticks since the machine did.
    stat = Path(f"/proc/{os.getppid()}/stat")
    began = stat.read_text().rsplit(")", 1)[1].split()[19] if stat.is_file() else "0"
    return f"torchrun-{os.getppid()}-{began}"
