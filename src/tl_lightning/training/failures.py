"""Error messages for failures of the environment: memory, loader workers, disks, other ranks."""

from __future__ import annotations

import torch

from tl_lightning.config.schema import RunConfig
from tl_lightning.errors import ConfigError, DataError, TrainingError, TransferError
from tl_lightning.utils.files import UNREACHABLE

__all__ = ["explanation_of"]

_WORKER_DIED = ("DataLoader worker (pid", "is killed by signal")
_RANK_DIED = (
    "Timed out waiting", "timed out after", "Connection closed by peer", "Connection reset by peer",
    "collective operation timeout", "Application timeout",
)  # fmt: skip
_OUT_OF_MEMORY = ("DefaultCPUAllocator", "out of memory", "CUDA_ERROR_OUT_OF_MEMORY")


def explanation_of(error: BaseException, run: RunConfig) -> TransferError | None:
    """Return an error with advice for a failure of the environment, or None for any other error.

    Args:
        error: The original error, possibly raised in a loader worker.
        run: The configuration of the run.
    """
    text = str(error)
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    if memory or (isinstance(error, RuntimeError) and any(part in text for part in _OUT_OF_MEMORY)):
        return TrainingError(_out_of_memory(run))
    if isinstance(error, RuntimeError) and any(part in text for part in _WORKER_DIED):
        workers = run.data.params.get("num_workers", 0)
        shared = " or shared memory is too small (df -h /dev/shm)" if "us error" in text else ""
        return TrainingError(
            f"a data loader worker died ({_first_line(text)}); usually the machine is out of memory"
            f"{shared}: set data.num_workers={workers // 2} and resume=auto to continue"
        )
    if isinstance(error, RuntimeError) and any(part in text for part in _RANK_DIED):
        return TrainingError(
            f"another rank did not respond within trainer.timeout_s={run.trainer.timeout_s} "
            f"({_first_line(text)[:160]}): it hangs or has died; check its output, then set "
            "resume=auto to continue, or trainer.timeout_s=<seconds> to wait longer"
        )
    if isinstance(error, ValueError) and "more than 1 value per channel" in text:
        return ConfigError(
            "batch norm cannot normalise a batch of one sample "
            f"(data.batch_size={run.batch_size}); set data.batch_size=2 or more, with at least 2 "
            "training samples in each domain"
        )
    if isinstance(error, OSError) and error.errno in UNREACHABLE:
        return DataError(
            f"cannot read {error.filename or 'the data'}: {error.strerror}; check that its disk or "
            "mount is available, then set resume=auto to continue"
        )
    return None


def _out_of_memory(run: RunConfig) -> str:
    size = run.batch_size
    problem = f"out of memory on {run.trainer.accelerator} with data.batch_size={size}"
    if size < 2:
        return f"{problem}; use a smaller backbone, or set trainer.accelerator=cpu"
    steps = 2 * run.trainer.accumulate_grad_batches
    return (
        f"{problem}; set data.batch_size={size // 2} trainer.accumulate_grad_batches={steps}, "
        "which keeps the number of images per optimizer step (but halves it for batch norm and for "
        "methods that compare images within a batch), and resume=null, because the batch size "
        "cannot change when a run is resumed"
    )


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
