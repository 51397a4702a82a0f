"""Run ids, which name the folder of a run and are the same on every rank."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path

from tl_lightning.errors import ConfigError

__all__ = ["run_id"]


def run_id() -> str:
    """Return the id of this command, the same in every rank and job that it starts.

    Time stamps of the single ranks would differ and give each rank a folder of its own.
    """
    found = os.environ.get("TL_RUN_ID", "")
    if found:
        return found
    if "SLURM_JOB_ID" in os.environ:
        # Different commands of a job need different folders; a restart has the same arguments.
        arguments = hashlib.sha256("\n".join(sys.argv[1:]).encode()).hexdigest()[:8]
        found = f"{os.environ['SLURM_JOB_ID']}-{arguments}"
    elif os.environ.get("TORCHELASTIC_RUN_ID", "none") != "none":
        found = os.environ["TORCHELASTIC_RUN_ID"]
    else:
        found = _torchrun_id() or f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    os.environ["TL_RUN_ID"] = found
    return found


def _torchrun_id() -> str:
    """Return an id shared by the ranks of torchrun without ``--rdzv-id``; empty outside torchrun.

    Raises:
        ConfigError: If there are several nodes, which cannot derive a shared id.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return ""
    if os.environ.get("WORLD_SIZE") != os.environ.get("LOCAL_WORLD_SIZE"):
        raise ConfigError(
            "torchrun was started on several nodes without a shared id, and each would write to a "
            "different folder; run torchrun --rdzv-id=<name> ..., or export TL_RUN_ID=<name>"
        )
    # Start time of the parent (torchrun, shared by all ranks), in clock ticks since boot.
    stat = Path(f"/proc/{os.getppid()}/stat")
    started = stat.read_text().rsplit(")", 1)[1].split()[19] if stat.is_file() else "0"
    return f"torchrun-{os.getppid()}-{started}"
