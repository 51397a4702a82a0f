"""Checkpoint files: atomic writes, checksums, and loading without code execution."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from tl_lightning.checkpoints.published import WEIGHTS, is_published, read_published
from tl_lightning.checkpoints.stored import StoredModel
from tl_lightning.errors import CheckpointError

__all__ = [
    "INTERPOLATED",
    "LAST",
    "AtomicCheckpointIO",
    "StoredModel",
    "amend",
    "as_before_validation",
    "last_good",
    "read_checkpoint",
    "read_model",
    "remove_drafts",
]


def as_before_validation(checkpoint: dict[str, Any]) -> None:
    """Mark in a checkpoint that the epoch's batches are done and its validation has to be run.

    Lightning only restarts a validation that was interrupted within a batch, and continues from
    there without the metrics of earlier batches. So the state is set to that of a validation
    interrupted in its first batch.

    Args:
        checkpoint: Written after the last batch of an epoch, before or during its validation;
            modified in place.
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


#: The newest checkpoint of a run; ``earlier-1.ckpt`` is the previous one.
LAST = "last.ckpt"
#: End of the file name of a model that was not trained, so that no run resumes from it.
INTERPOLATED = "-interpolated"
_MARK = b"tl_lightning sha256 "
_TRAILER = len(_MARK) + hashlib.sha256().digest_size * 2
#: Signature and length of the record at the end of a zip archive without a comment.
_SIGNATURE, _END = b"PK\x05\x06", 22
_BLOCK = 1 << 20


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write checkpoints to a temporary file in the same folder, sync it, then rename it.

    Lightning writes to ``$TMPDIR`` and moves the file. Across file systems that is a copy, so a
    killed process or a full disk leaves an incomplete file under the final name.

    Args:
        keep_last: Number of most recent checkpoints to keep: ``last.ckpt`` and ``earlier-*.ckpt``.
    """

    def __init__(self, *, keep_last: int) -> None:
        self.keep_last = keep_last

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load a checkpoint without executing code in it, whatever the caller asks for."""
        return read_checkpoint(Path(path))

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Save ``checkpoint``; ``path`` is either the old file or the complete new one."""
        final = Path(path)
        final.parent.mkdir(parents=True, exist_ok=True)
        with _drafted(checkpoint, final):
            if final.name == LAST:
                _rotate(final, self.keep_last)


@contextmanager
def _drafted(checkpoint: Mapping[str, Any], final: Path) -> Iterator[None]:
    """Write a checkpoint to a temporary file, which replaces ``final`` after the body."""
    draft = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    try:
        with open(draft, "wb") as file:
            torch.save(checkpoint, file)
        _seal(draft)
        yield
        os.replace(draft, final)
        _sync_folder(final.parent)
    except (OSError, RuntimeError) as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            # On Ctrl-C torch closes its incomplete archive, which raises a RuntimeError.
            raise KeyboardInterrupt from None
        free = shutil.disk_usage(final.parent).free // 2**20
        raise CheckpointError(
            f"cannot write checkpoint {final}: {error} ({free} MiB free on this disk); free "
            "some disk space and resume, or set hydra.run.dir to another disk; earlier "
            "checkpoints are intact"
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def amend(path: Path, **entries: Any) -> None:
    """Add entries to a checkpoint, or replace them; at any time it is the old or the new one.

    Raises:
        CheckpointError: If it cannot be read or written.
    """
    stored = read_checkpoint(path)
    with _drafted({**stored, **entries}, path):
        pass


def _seal(path: Path) -> None:
    """Append the file's checksum as the comment of the zip archive, and sync the file."""
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


def _rotate(last: Path, keep: int) -> None:
    """Rename ``last.ckpt`` to ``earlier-1.ckpt``, that to ``earlier-2.ckpt``, and so on."""
    for number in range(keep - 1, 0, -1):
        newer = last if number == 1 else last.with_name(f"earlier-{number - 1}.ckpt")
        if newer.is_file():
            os.replace(newer, last.with_name(f"earlier-{number}.ckpt"))


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power failure, on systems where folders can be synced."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_drafts(folder: Path) -> None:
    """Remove temporary files left by killed processes."""
    for draft in folder.glob(".*.ckpt.*.tmp"):
        if re.fullmatch(r"\..+\.ckpt\.\d+\.tmp", draft.name) and draft.is_file():
            draft.unlink(missing_ok=True)


def _checksum_error(path: Path) -> str:
    """Return an error if the checksum does not match; files without a checksum are accepted."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _END - _TRAILER))
        tail = file.read()
        end = tail.rfind(_SIGNATURE)
        if end < 0 or tail[end + _END - 2 :] == b"\0\0":  # not an archive, or without a checksum
            return ""
        file.seek(0)
        digest, remaining = hashlib.sha256(), size - _TRAILER
        while block := file.read(min(_BLOCK, remaining)):
            digest.update(block)
            remaining -= len(block)
    valid = tail[end + _END :] == _MARK + digest.hexdigest().encode()
    return "" if valid else "its content does not match its checksum"


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint of tl_lightning without executing any code in it.

    Raises:
        CheckpointError: If the file is missing, corrupt or was not written by tl_lightning.
    """
    if not path.is_file():
        raise CheckpointError(
            f"checkpoint={path} not found; pass the path of a .ckpt file in a run's checkpoints/"
        )
    try:
        problem = _checksum_error(path)
        stored: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a corrupt archive raises many types
        raise CheckpointError(
            f"checkpoint={path} is corrupt or contains more than tensors and plain values "
            f"({type(error).__name__}); use another of the run's checkpoints"
        ) from error
    if problem:
        raise CheckpointError(
            f"checkpoint={path} is corrupt: {problem}; use another of the run's checkpoints"
        )
    if not isinstance(stored, dict) or "config" not in stored.get("hyper_parameters", {}):
        raise CheckpointError(
            f"checkpoint={path} was not written by tl_lightning; to load plain weights, set "
            "backbone.weights=<file>"
        )
    return stored


def read_model(path: Path) -> StoredModel:
    """Return the model in a checkpoint, or the published one whose weights are in ``path``.

    Raises:
        CheckpointError: As :func:`read_checkpoint`, or if another version wrote the file.
    """
    if path.name == WEIGHTS and is_published(path.parent):
        return read_published(path.parent)
    stored = read_checkpoint(path)
    hyper = stored["hyper_parameters"]
    try:
        return StoredModel(
            **{**hyper, "classes": tuple(hyper["classes"])},
            **{name: stored[name] for name in ("input_state", "restored_by", "state_dict")},
            data=stored.get("data", {}),
            reliability=stored.get("reliability", {}),
        )
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"checkpoint={path} was written by another version of tl_lightning ({error}); load it "
            "with that version"
        ) from error


def last_good(folder: Path) -> Path | None:
    """Return the newest valid checkpoint of a run, or None if it has none.

    Every newer, corrupt checkpoint causes a warning and is renamed to ``<name>.broken``.

    Args:
        folder: The ``checkpoints/`` folder of the run.

    Raises:
        CheckpointError: If there are checkpoints and all of them are corrupt.
    """
    problems = []
    for path in _newest_first(folder):
        try:
            read_checkpoint(path)
        except CheckpointError as error:
            problems.append((path, str(error)))
            continue
        for broken, problem in problems:
            warnings.warn(f"{problem.partition(';')[0]}; resuming from {path}", stacklevel=2)
            # Otherwise rotation would replace a valid checkpoint with it.
            broken.with_name(f"{broken.name}.broken").unlink(missing_ok=True)
            if broken.is_file():  # another rank may have renamed it
                os.replace(broken, broken.with_name(f"{broken.name}.broken"))
        return path
    if problems:
        raise CheckpointError(
            f"nothing to resume in {folder}: {problems[0][1].partition(';')[0]}"
            + (f" ({len(problems) - 1} more corrupt checkpoint(s))" if len(problems) > 1 else "")
            + "; set resume=null and another hydra.run.dir to start a new run"
        )
    return None


def _newest_first(folder: Path) -> Iterator[Path]:
    yield from (path for path in [folder / LAST] if path.is_file())
    yield from sorted(folder.glob("earlier-*.ckpt"))
    others = [
        path
        for path in folder.glob("*.ckpt")
        if path.name != LAST and "earlier-" not in path.name and INTERPOLATED not in path.name
    ]
    yield from sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)
