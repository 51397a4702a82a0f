"""Command line with which Lightning starts the other ranks of a sweep job."""

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
    """Make the ranks started by Lightning run only this job of the sweep, in the job's folder.

    Lightning starts the other ranks with the full command line of this process. With ``-m`` each of
    them would start the sweep from its first job, in the process group of the current one.

    Args:
        resume: The ``resume`` setting of this rank. A repeated sweep resumes interrupted jobs
            without being told to, and all ranks have to do the same.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import read_write

    if not HydraConfig.initialized():
        yield
        return
    hydra = HydraConfig.get()
    argv, environ = sys.argv[:], {name: os.environ.get(name) for name in _LAUNCH_VARIABLES}
    sweeping = hydra.mode is not None and hydra.mode.name == "MULTIRUN"
    if sweeping:
        resuming = [] if resume in (None, False) else [f"resume={resume}"]
        sys.argv = [argv[0], *hydra.overrides.task, *resuming, "hydra.mode=RUN"]
        node: Any = HydraConfig.instance().cfg
        assert node is not None
        with read_write(node.hydra.run):
            node.hydra.run.dir = hydra.runtime.output_dir
    try:
        yield
    finally:
        sys.argv = argv
        if dist.is_available() and dist.is_initialized():
            # Otherwise the next job of the sweep would wait for the ranks of this one, and threads
            # of the process group could abort the process at exit.
            dist.destroy_process_group()
        for name, value in environ.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
