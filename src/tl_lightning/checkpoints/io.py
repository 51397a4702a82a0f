"""Checkpoint files: written atomically, sealed by a checksum, read without executing code."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from tl_lightning.errors import CheckpointError

__all__ = [
    "LAST",
    "AtomicCheckpointIO",
    "as_before_validation",
    "last_good",
    "read_checkpoint",
    "remove_drafts",
]


def as_before_validation(checkpoint: dict[str, Any]) -> None:
    """Say in a checkpoint that its epoch's batches are done and its validation has to be made.

    Lightning goes back to a validation only if it was cut in the middle of a batch, and then goes
    on in that middle without the figures of the batches before. It is told that this was the first.

    Args:
        checkpoint: Written after an epoch's last batch, before or in its validation; changed.
    """
    loops = checkpoint["loops"]["fit_loop"]
    for count in ("total", "current"):
        batches = loops["epoch_loop.batch_progress"][count]
        batches |= dict.fromkeys(("started", "processed", "completed"), batches["ready"])
        loops["epoch_loop.val_loop.batch_progress"][count] = {
            "ready": 1, "started": 1, "processed": 0, "completed": 0,
        }  # fmt: skip
    loops["epoch_loop.val_loop.batch_progress"]["is_last_batch"] = False
    checkpoint["before_validation"] = True


#: The newest checkpoint of a run; ``earlier-1.ckpt`` is the one before it.
LAST = "last.ckpt"
_MARK = b"tl_lightning sha256 "
_TRAILER = len(_MARK) + hashlib.sha256().digest_size * 2
#: The record that an archive without a comment ends with: its signature and its length.
_SIGNATURE, _END = b"PK\x05\x06", 22
_BLOCK = 1 << 20


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint under a temporary name beside its place, sync it, then rename it.

    Lightning writes to ``$TMPDIR`` and moves: across file systems that is a copy, and a kill or a
    full disk leaves half a file under the final name.

    Args:
        keep_last: How many of the newest checkpoints stay: ``last.ckpt`` and those before it.
    """

    def __init__(self, *, keep_last: int) -> None:
        self.keep_last = keep_last

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Save ``checkpoint`` so that ``path`` holds the old file or the whole new one."""
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = place.with_name(f".{place.name}.{os.getpid()}.tmp")
        try:
            with open(draft, "wb") as file:
                torch.save(checkpoint, file)
            _seal(draft)
            if place.name == LAST:
                _make_way(place, self.keep_last)
            os.replace(draft, place)
            _sync_folder(place.parent)
        except (OSError, RuntimeError) as error:
            if isinstance(error.__context__, KeyboardInterrupt):
                # torch closes its archive all the same, and complains that it is not whole.
                raise KeyboardInterrupt from None
            free = shutil.disk_usage(place.parent).free // 2**20
            raise CheckpointError(
                f"cannot write checkpoint {place}: {error} ({free} MiB free there); make room and "
                "resume, or set hydra.run.dir to another disk; earlier checkpoints are intact"
            ) from error
        finally:
            draft.unlink(missing_ok=True)


def _seal(path: Path) -> None:
    """Append the digest of a file as its archive's comment, and sync it."""
    with open(path, "r+b") as file:
        file.seek(-_END, os.SEEK_END)
        assert file.read(4) == _SIGNATURE, "torch writes archives without a comment"
        file.seek(-2, os.SEEK_END)
        file.write(struct.pack("<H", _TRAILER))
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0, os.SEEK_END)
        file.write(_MARK + digest.encode())
        file.flush()
        os.fsync(file.fileno())


def _make_way(last: Path, keep: int) -> None:
    """Give the newest checkpoints the names of older ones, the oldest first."""
    for number in range(keep - 1, 0, -1):
        newer = last if number == 1 else last.with_name(f"earlier-{number - 1}.ckpt")
        if newer.is_file():
            os.replace(newer, last.with_name(f"earlier-{number}.ckpt"))


def _sync_folder(folder: Path) -> None:
    """Make a rename outlast a power cut, where the system lets folders be synced."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_drafts(folder: Path) -> None:
    """Remove what writes that were killed have left."""
    for draft in folder.glob(".*.ckpt.*.tmp"):
        draft.unlink(missing_ok=True)


def _fault(path: Path) -> str:
    """Return what is wrong with a file's bytes; one without a sum is left to its reader."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _END - _TRAILER))
        tail = file.read()
        end = tail.rfind(_SIGNATURE)
        if end < 0 or tail[end + _END - 2 :] == b"\0\0":  # no archive, or one without a sum
            return ""
        file.seek(0)
        digest, left = hashlib.sha256(), size - _TRAILER
        while block := file.read(min(_BLOCK, left)):
            digest.update(block)
            left -= len(block)
    same = tail[end + _END :] == _MARK + digest.hexdigest().encode()
    return "" if same else "its bytes are not those that were written"


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what a checkpoint of ours holds, without executing anything in it.

    Raises:
        CheckpointError: If the file is missing, broken or not one of ours.
    """
    if not path.is_file():
        raise CheckpointError(
            f"no checkpoint at checkpoint={path}; type the path of a .ckpt file below a run's "
            "checkpoints/"
        )
    try:
        fault = _fault(path)
        stored: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken archive raises many kinds
        raise CheckpointError(
            f"checkpoint={path} is broken or holds more than tensors and plain values "
            f"({type(error).__name__}); use another of the run's checkpoints"
        ) from error
    if fault:
        raise CheckpointError(
            f"checkpoint={path} is broken: {fault}; use another of the run's checkpoints"
        )
    if not isinstance(stored, dict) or "config" not in stored.get("hyper_parameters", {}):
        raise CheckpointError(
            f"checkpoint={path} was not written by tl_lightning; for plain weights type "
            "backbone.weights=<file>"
        )
    return stored


def last_good(folder: Path) -> Path | None:
    """Return a run's newest checkpoint that is whole, or None where there is none at all.

    Warns of every newer one that is broken; it is left under the name ``<name>.broken``.

    Args:
        folder: The run's ``checkpoints/``.

    Raises:
        CheckpointError: If there are checkpoints and all of them are broken.
    """
    faults = []
    for path in _newest_first(folder):
        try:
            read_checkpoint(path)
        except CheckpointError as error:
            faults.append((path, str(error)))
            continue
        for broken, fault in faults:
            warnings.warn(f"{fault.partition(';')[0]}; going on from {path}", stacklevel=2)
            # It must not take the name of a good one when the next is written.
            broken.with_name(f"{broken.name}.broken").unlink(missing_ok=True)
            if broken.is_file():  # another rank may have been here
                os.replace(broken, broken.with_name(f"{broken.name}.broken"))
        return path
    if faults:
        raise CheckpointError(
            f"nothing to resume in {folder}: {faults[0][1].partition(';')[0]}"
            + (f", nor is any of the {len(faults) - 1} others whole" if len(faults) > 1 else "")
            + "; type resume=null with another hydra.run.dir to start anew"
        )
    return None


def _newest_first(folder: Path) -> Iterator[Path]:
    yield from (path for path in [folder / LAST] if path.is_file())
    yield from sorted(folder.glob("earlier-*.ckpt"))
    others = [p for p in folder.glob("*.ckpt") if p.name != LAST and "earlier-" not in p.name]
    yield from sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)
