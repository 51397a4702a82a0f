"""Messages of one line on the console."""

from __future__ import annotations

import os
import re
import sys

from tl_lightning.errors import ConfigError, TransferError
from tl_lightning.utils.text import masked, printable

__all__ = ["on_problem", "say", "sentence", "typed"]


def sentence(error: BaseException) -> str:
    """Return the message of an error, without the traceback that a DataLoader worker adds."""
    text = str(error)
    prefix = f"{type(error).__name__}: "
    return text.rsplit(prefix, 1)[1].strip() if "Original Traceback" in text else text


def say(text: str) -> None:
    """Print a line to the standard error stream, on local rank zero only."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(typed(text), file=sys.stderr, flush=True)


def on_problem(error: TransferError) -> None:
    """Print each problem on a line of its own, on local rank zero only."""
    lines = error.problems if isinstance(error, ConfigError) else [sentence(error)]
    for line in lines:
        say(f"error: {printable(masked(line))}")


_SCRIPT = re.compile(
    r"(?:python )?(?:scripts/)?\b(train|tune|evaluate|predict|export|publish|serve|demo|adapt|"
    r"report|check_data|extract_features|write_shards|rank_backbones|advise|activation_study|"
    r"validator_study|accuracy_study)\.py\b"
)


def typed(text: str) -> str:
    """Return a text with the names of the commands as this one was started.

    The scripts are in the repository only; an installed package has ``tl-train`` and so on.

    >>> sys.argv[0], before = "/bin/tl-tune", sys.argv[0]
    >>> typed("run python scripts/check_data.py or train.py")
    'run tl-check-data or tl-train'
    >>> sys.argv[0] = before
    """
    if sys.argv[0].endswith(".py") and not sys.argv[0].endswith("__main__.py"):
        return text
    return _SCRIPT.sub(lambda found: f"tl-{found[1].replace('_', '-')}", text)
