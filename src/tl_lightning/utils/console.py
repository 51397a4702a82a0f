"""Errors on the command line: one sentence and an exit code."""

from __future__ import annotations

import os
import sys

from tl_lightning.errors import ConfigError, TransferError

__all__ = ["complain", "sentence"]


def sentence(error: BaseException) -> str:
    """Return an error's own words, also when a loader's worker has wrapped them in a traceback."""
    text = str(error)
    mark = f"{type(error).__name__}: "
    return text.rsplit(mark, 1)[1].strip() if "Original Traceback" in text else text


def complain(error: TransferError) -> None:
    """Print each fault as a line, on the first rank."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return
    lines = error.faults if isinstance(error, ConfigError) else [sentence(error)]
    for line in lines:
        print(f"error: {line}", file=sys.stderr, flush=True)
