"""What goes wrong around a run, in sentences: memory, loader processes, disks, other ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tl_lightning.errors import DataError, TrainingError, TransferError
from tl_lightning.utils.files import AWAY

__all__ = ["explained"]

_WORKER = ("DataLoader worker (pid", "is killed by signal")
_RANKS = (
    "Timed out waiting", "timed out after", "Connection closed by peer", "Connection reset by peer",
    "collective operation timeout", "Application timeout",
)  # fmt: skip
_MEMORY = ("DefaultCPUAllocator", "out of memory", "CUDA_ERROR_OUT_OF_MEMORY")


def explained(error: BaseException, config: Mapping[str, Any]) -> TransferError | None:
    """Return what to do about an error that is no fault of the code, or None for any other.

    Args:
        error: As it came, perhaps through a loader's process.
        config: The run's.
    """
    text = str(error)
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    if memory or (isinstance(error, RuntimeError) and any(word in text for word in _MEMORY)):
        return TrainingError(_less_memory(config))
    if isinstance(error, RuntimeError) and any(word in text for word in _WORKER):
        workers = config["data"].get("num_workers", 0)
        shared = ", or shared memory is too small (df -h /dev/shm)" if "us error" in text else ""
        return TrainingError(
            f"a loader process died ({_first_line(text)}): most often the machine is out of memory"
            f"{shared}; type data.num_workers={workers // 2}, and resume=auto to go on"
        )
    if isinstance(error, RuntimeError) and any(word in text for word in _RANKS):
        return TrainingError(
            f"another rank did not answer within trainer.timeout_s="
            f"{config['trainer'].get('timeout_s')} ({_first_line(text)[:160]}): it hangs or has "
            "died; see what it said last, and type resume=auto to go on; a longer wait: "
            "trainer.timeout_s=<seconds>"
        )
    if isinstance(error, OSError) and error.errno in AWAY:
        return DataError(
            f"cannot reach {error.filename or 'the data'}: {error.strerror}; see that its disk or "
            "mount answers, then type resume=auto to go on"
        )
    return None


def _less_memory(config: Mapping[str, Any]) -> str:
    size, trainer = config["data"]["batch_size"], config["trainer"]
    words = f"out of memory on {trainer['accelerator']} with data.batch_size={size}; type "
    if size < 2:
        return words + "a smaller backbone, or trainer.accelerator=cpu"
    more = 2 * trainer["accumulate_grad_batches"]
    return (
        f"{words}data.batch_size={size // 2} trainer.accumulate_grad_batches={more}, which gives "
        "the optimizer as many pictures a step (batch norm and methods that compare the pictures "
        "of a batch see half of them), and resume=null: a batch of another size is another run"
    )


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
