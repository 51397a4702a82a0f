"""Process-wide settings: precision, memory allocator, warnings and logging."""

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

__all__ = [
    "auto_precision",
    "collected_warnings",
    "keep_memory",
    "quiet",
    "skip_gpu_checks",
    "versions",
]

_PACKAGES = ("tl_lightning", "torch", "torchvision", "lightning", "torchmetrics", "timm",
             "hydra-core", "scikit-learn", "numpy")  # fmt: skip

# Third-party warnings that the user cannot act on, each with the reason.
_IGNORED_WARNINGS = (
    "does not have many workers",  # not needed for images in memory
    "The number of training batches",  # short epochs are intended
    "Checkpoint directory .* exists and is not empty",  # resumed runs
    "`isinstance\\(treespec, LeafSpec\\)` is deprecated",  # between Lightning and torch
    "your dataloader is not resumable",  # it is: the sampler resumes at the exact sample
    "in eval mode at the start of training",  # frozen modules are in eval mode on purpose
    "The `srun` command is available",  # SLURM may be installed without being used
    "Experiment logs directory .* exists",  # resumed runs append
    "Starting from v1.9.0, `tensorboardX`",
    "torch.distributed.nn.functional.all_gather is deprecated",  # called by torchmetrics
    "It is recommended to use `self.log",  # the logged values are already the same on every rank
)


def auto_precision(accelerator: str) -> str:
    """Return ``bf16-mixed`` if the device supports bfloat16 natively, else ``32-true``."""
    if accelerator in ("gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.get_device_capability()[0] >= 8 else "32-true"
    if accelerator == "cpu":
        native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
        return "bf16-mixed" if native else "32-true"
    return "32-true"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def keep_memory() -> bool:
    """Make glibc keep freed memory in the process; return whether the setting was applied.

    By default, glibc returns large blocks to the system after every step and gets them back page by
    page, which took a third to a half of a training step on CPU. Does nothing with another C
    library or if the user has tuned the allocator.
    """
    if sys.platform != "linux" or {"MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"} & os.environ.keys():
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    mmap_threshold, trim_threshold = -3, -1  # from malloc.h
    return bool(mallopt(mmap_threshold, 1 << 30) and mallopt(trim_threshold, (1 << 31) - 1))


def skip_gpu_checks() -> None:
    """Let torch answer quickly whether there is a GPU, which its optimizers ask in every step.

    Lightning makes torch look for the driver's library instead, 0.15 ms each time, as the usual
    check prevents forked processes from using a GPU. Without one, that does not matter.
    """
    if not torch.cuda.is_available():
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)


def quiet() -> None:
    """Suppress Lightning's duplicate log lines under Hydra, its tips and irrelevant warnings."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # Hydra shows INFO of all loggers
    # Large or unusually tagged images still decode correctly. Set once and not around each decode:
    # warning filters are process-wide, and threads would overwrite each other's.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    for message in _IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message=f".*{message}")


@contextlib.contextmanager
def collected_warnings(into: list[str]) -> Iterator[None]:
    """Print each distinct warning once and append its message to ``into``, for the report."""
    shown = warnings.showwarning

    def show(message: Any, category: Any, *args: Any, **kwargs: Any) -> None:
        text = str(message)
        if text not in into:
            into.append(text)
            if args and isinstance(args[0], str):
                print(f"warning: {text}", file=sys.stderr, flush=True)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = shown
