"""Settings of the process: threads, memory, warnings, log lines."""

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

__all__ = ["auto_precision", "gathered_warnings", "keep_memory", "quiet", "versions"]

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
