"""Output that is continued after an interruption, without a lost or a repeated row.

Rows are appended to a file in a folder beside the output. From time to time the files are synced,
and then a state is written that has their lengths. What was appended after the last state is cut
off when the same command is started again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from scipy import sparse

from tl_lightning.errors import DataError
from tl_lightning.inference.sources import Sample
from tl_lightning.utils.console import say
from tl_lightning.utils.files import FULL, read_json, run_lock, write_bytes, write_json

__all__ = ["Draft", "State", "digest_after"]

#: Seconds between two states.
EVERY = 1.0
ROWS, LOGITS, STATE = "rows", "logits", "state.json"
#: Start of the names of files with the state of an adaptation.
ADAPTATION = "adaptation-"


@dataclass
class State:
    """What has been done.

    Attributes:
        samples: Number of inputs whose rows are written.
        digest: Hash of these inputs.
        lengths: Length of each file, in bytes.
        counts: Sums over the rows, for the summary.
    """

    samples: int = 0
    digest: str = ""
    lengths: dict[str, int] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)


class Draft:
    """The rows of an output that is not complete yet; use :meth:`open`.

    Attributes:
        state: Of the last :meth:`commit`, or that of an interrupted command.
    """

    def __init__(self, out: Path, identity: Mapping[str, Any]) -> None:
        self.out = out
        self.folder = out.with_name(f".{out.name}.draft")
        self.identity = dict(identity)
        self.state = self._found()
        self.files: dict[str, Any] = {}
        self.committed = time.monotonic()

    @classmethod
    @contextmanager
    def open(cls, out: Path, identity: Mapping[str, Any]) -> Iterator[Self]:
        """Continue the draft of an interrupted command, or start one.

        Args:
            out: The output.
            identity: What the rows depend on besides the inputs.

        Raises:
            DataError: If another command writes the same output, or it cannot be written.
        """
        folder = out.with_name(f".{out.name}.draft")
        try:
            with run_lock(folder) as acquired:
                if not acquired:
                    raise DataError(
                        f"another command is writing out={out}; wait for it, or set out=<another "
                        "file>"
                    )
                draft = cls(out, identity)
                try:
                    yield draft
                finally:
                    draft.close()
        except OSError as error:
            full = "; free some disk space and repeat the command to continue"
            advice = full if error.errno in FULL else "; set out=<another file>"
            raise DataError(f"cannot write out={out}: {error.strerror}{advice}") from error

    def _found(self) -> State:
        try:
            stored = read_json(self.folder / STATE)
            identity, state = stored.pop("identity"), State(**stored)
        except DataError:
            return State()
        except (KeyError, TypeError):
            say(f"note: the draft of out={self.out} is of another version; starting again")
            return State()
        changed = [key for key, value in self.identity.items() if identity.get(key) != value]
        if changed:
            say(
                f"note: an interrupted command for out={self.out} had another {changed[0]}; "
                "starting again"
            )
            return State()
        for name, length in state.lengths.items():
            file = self.folder / name
            if not file.is_file() or file.stat().st_size < length:
                say(f"note: the draft of out={self.out} is incomplete; starting again")
                return State()
        return state

    def restart(self, reason: str) -> None:
        """Discard the rows of the interrupted command."""
        say(f"note: {reason}; starting again")
        self.state = State()

    def start(self) -> None:
        """Open the files and cut off what was written after the last state."""
        if not self.state.samples:  # or an earlier state would fit the new rows by chance
            (self.folder / STATE).unlink(missing_ok=True)
        for name in (ROWS, LOGITS):
            file = (self.folder / name).open("ab")
            file.truncate(self.state.lengths.get(name, 0))
            file.seek(0, os.SEEK_END)  # otherwise it still tells the place of the former end
            self.files[name] = file
        self.committed = time.monotonic()

    def stored(self, name: str) -> bytes:
        """Return what the interrupted command wrote to a file."""
        length = self.state.lengths.get(name, 0)
        return (self.folder / name).read_bytes()[:length] if length else b""

    @property
    def adaptation(self) -> bytes:
        """State of the adaptation at the last state; empty without one."""
        names = [name for name in self.state.lengths if name.startswith(ADAPTATION)]
        return self.stored(names[0]) if names else b""

    def append(self, rows: bytes, logits: bytes) -> None:
        """Append to the files; an interruption loses it until :meth:`commit`."""
        self.files[ROWS].write(rows)
        self.files[LOGITS].write(logits)

    def commit(
        self, samples: int, digest: str, counts: Mapping[str, float], adaptation: bytes = b""
    ) -> None:
        """Sync the files, and note how far they are.

        Args:
            samples: Number of inputs whose rows are written.
            digest: Hash of these inputs.
            counts: Sums over the rows.
            adaptation: State of the adaptation after these inputs.
        """
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())
        lengths = {name: file.tell() for name, file in self.files.items()}
        if adaptation:  # under another name, so that the last state keeps its own
            name = f"{ADAPTATION}{samples}"
            write_bytes(self.folder / name, adaptation)
            lengths[name] = len(adaptation)
        self.state = State(samples, digest, lengths, dict(counts))
        write_json(self.folder / STATE, {"identity": self.identity, **asdict(self.state)})
        for file in self.folder.glob(f"{ADAPTATION}*"):
            if file.name not in lengths:
                file.unlink(missing_ok=True)
        self.committed = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the last commit was long ago."""
        return time.monotonic() - self.committed > EVERY

    def close(self) -> None:
        """Close the files, and remove the folder if there is nothing to continue."""
        for file in self.files.values():
            with suppress(OSError):  # a full disk has been reported
                file.close()
        self.files = {}
        if not (self.folder / STATE).is_file():
            shutil.rmtree(self.folder, ignore_errors=True)

    def replace(self, complete: Path) -> None:
        """Put the complete file in the place of the output, and remove the draft."""
        self.close()
        os.replace(complete, self.out)
        # First, so that no state is left without its rows.
        (self.folder / STATE).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def digest_after(digest: str, samples: Sequence[Sample]) -> str:
    """Return the hash of all inputs up to these, whose hash so far is ``digest``.

    Files count with their size and time of modification.
    """
    parts = [[sample.name, sample.problem, _mark(sample.value)] for sample in samples]
    text = json.dumps([digest, parts]).encode()
    return hashlib.sha256(text).hexdigest()


def _mark(value: Any) -> Any:
    if isinstance(value, Path):
        try:
            status = value.stat()
        except (OSError, ValueError):
            return None
        return [status.st_size, status.st_mtime_ns]
    if value is None or isinstance(value, str):
        return value
    if sparse.issparse(value):
        return [value.indices.tolist(), value.data.tolist()]
    return hashlib.sha256(value if isinstance(value, bytes) else value.tobytes()).hexdigest()
