"""User-facing errors, whose messages say what is wrong, where it is set and how to fix it.

A :class:`TransferError` is shown as a message without a traceback; any other exception is a bug in
this package and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "TrainingError",
    "TransferError",
    "nearest",
]


class TransferError(Exception):
    """Base class of all errors that the user can fix.

    Attributes:
        exit_code: Exit status of a command that fails with this error.
    """

    exit_code = 2


class ConfigError(TransferError):
    """The configuration is invalid; lists all problems found, not only the first."""

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class DataError(TransferError):
    """The data on disk does not match the configuration."""


class CheckpointError(TransferError):
    """A checkpoint or weights file is missing, corrupt or of the wrong kind."""


class TrainingError(TransferError):
    """Training cannot continue (for example, a non-finite loss or a dead discriminator)."""

    exit_code = 3


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return a hint with the choice closest to ``word``, or all choices if none is close.

    >>> nearest("reset18", ["resnet18", "resnet50", "vgg16_bn"])
    "did you mean 'resnet18'?"
    >>> nearest("zzz", ["a", "b"])
    'valid: a, b'
    """
    names = sorted(choices)
    close = get_close_matches(word, names, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"valid: {', '.join(names)}"
