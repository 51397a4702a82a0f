"""The process around a run: ranks, devices, signals, what other libraries print."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = [
    "auto_precision",
    "gathered_warnings",
    "keep_memory",
    "quiet",
    "rank",
    "rank_mean",
    "same_buffers",
    "single_job_argv",
    "versions",
]

_LAUNCH_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")
_PACKAGES = ("tl_lightning", "torch", "torchvision", "lightning", "torchmetrics", "timm",
             "hydra-core", "scikit-learn", "numpy")  # fmt: skip

# What Lightning says that is no fault of the user's: each with its reason.
_NOISE = (
    "does not have many workers",  # pictures in memory need none
    "The number of training batches",  # short epochs are intended
    "Checkpoint directory .* exists and is not empty",  # resumed runs
    "`isinstance\\(treespec, LeafSpec\\)` is deprecated",  # between Lightning and torch
    "your dataloader is not resumable",  # ours are: our sampler goes on at the exact sample
    "in eval mode at the start of training",  # what is frozen is meant to be
    "The `srun` command is available",  # having SLURM installed is no fault
    "Experiment logs directory .* exists",  # resumed runs append
    "Starting from v1.9.0, `tensorboardX`",
    "torch.distributed.nn.functional.all_gather is deprecated",  # called by torchmetrics
    "It is recommended to use `self.log",  # what is logged is the same on every rank already
)


def rank() -> int:
    """Return this process's rank, before and after the ranks are connected."""
    if dist.is_available() and dist.is_initialized():
        return int(dist.get_rank())
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0


def rank_mean(value: Tensor) -> Tensor:
    """Return the mean of a tensor over the ranks, without gradients; alone, the tensor.

    What a rank divides by this has the same gradient, in the mean over ranks, as one process with
    the batch of all of them.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return value.detach()
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def auto_precision(accelerator: str) -> str:
    """Return ``bf16-mixed`` where the device computes in bfloat16 natively, else ``32-true``."""
    if accelerator in ("gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.get_device_capability()[0] >= 8 else "32-true"
    if accelerator == "cpu":
        native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
        return "bf16-mixed" if native else "32-true"
    return "32-true"


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def keep_memory() -> bool:
    """Let freed memory stay with the process; return whether that could be arranged.

    The C library hands every large block back to the system and gets it again, page by page, at the
    next step: on a CPU a third to a half of a training step was spent on that. Does nothing where
    the C library is another one, or where the user has tuned it.
    """
    if sys.platform != "linux" or {"MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"} & os.environ.keys():
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    mmap_threshold, trim_threshold = -3, -1  # from malloc.h
    return bool(mallopt(mmap_threshold, 1 << 30) and mallopt(trim_threshold, (1 << 31) - 1))


def quiet() -> None:
    """Stop Lightning from logging twice under Hydra, and from advertising."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # Hydra shows INFO of everybody
    # Large or oddly tagged pictures that decode all the same are no fault. Not around each decode:
    # the filters are the process's, and threads would overwrite one another's.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=f".*{message}")


@contextlib.contextmanager
def gathered_warnings(into: list[str]) -> Iterator[None]:
    """Show warnings as ever and also keep each one's words once, for the report."""
    shown = warnings.showwarning

    def show(message: Any, category: Any, *args: Any, **kwargs: Any) -> None:
        words = str(message)
        if words not in into:
            into.append(words)
            if args and isinstance(args[0], str):
                print(f"warning: {words}", file=sys.stderr, flush=True)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = shown


def same_buffers(module: nn.Module) -> None:
    """Give every rank the first one's buffers, such as batch norm's running statistics.

    Each rank moves them by its own pictures, and a checkpoint holds the first one's: without this
    the ranks would evaluate somewhat different models, none of them the one that is kept.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        for buffer in module.buffers():
            if buffer.is_floating_point():
                dist.broadcast(buffer, src=0)


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
