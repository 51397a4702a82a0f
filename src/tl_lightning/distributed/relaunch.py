"""The command line that further ranks of one job of a sweep are started with."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import torch.distributed as dist

__all__ = ["single_job_argv"]

_LAUNCH_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")


@contextlib.contextmanager
def single_job_argv(resume: str | bool | None) -> Iterator[None]:
    """Let Lightning's relaunched ranks run this one job of a sweep, in this job's own folder.

    Lightning starts the other ranks with this process's whole command line. Under ``-m`` each of
    them would start a sweep of its own, with other values, and train on them in one process group.

    Args:
        resume: What this rank goes on from, as in the configuration: a repeated sweep goes on with
            its interrupted jobs though nobody typed so, and all ranks have to.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import read_write

    if not HydraConfig.initialized():
        yield
        return
    hydra = HydraConfig.get()
    argv, saved = sys.argv[:], {name: os.environ.get(name) for name in _LAUNCH_VARIABLES}
    sweeping = hydra.mode is not None and hydra.mode.name == "MULTIRUN"
    if sweeping:
        going_on = [] if resume in (None, False) else [f"resume={resume}"]
        sys.argv = [argv[0], *hydra.overrides.task, *going_on, "hydra.mode=RUN"]
        node: Any = HydraConfig.instance().cfg
        assert node is not None
        with read_write(node.hydra.run):
            node.hydra.run.dir = hydra.runtime.output_dir
    try:
        yield
    finally:
        sys.argv = argv
        if dist.is_available() and dist.is_initialized():
            # Or a sweep's next job would wait for this one's ranks; and a process that leaves it to
            # its end may be aborted there by threads that still listen.
            dist.destroy_process_group()
        for name, value in saved.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
