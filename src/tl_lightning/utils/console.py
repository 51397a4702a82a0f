"""One-line error messages for the command line."""

from __future__ import annotations

import os
import sys

from tl_lightning.errors import ConfigError, TransferError

__all__ = ["on_problem", "sentence"]


def sentence(error: BaseException) -> str:
    """Return the message of an error, without the traceback that a DataLoader worker adds."""
    text = str(error)
    prefix = f"{type(error).__name__}: "
    return text.rsplit(prefix, 1)[1].strip() if "Original Traceback" in text else text


def on_problem(error: TransferError) -> None:
    """Print each problem on a line of its own, on local rank zero only."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return
    lines = error.problems if isinstance(error, ConfigError) else [sentence(error)]
    for line in lines:
        print(f"error: {line}", file=sys.stderr, flush=True)
