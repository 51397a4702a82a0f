"""The errors a user can mend: what was wrong, what was got, where it is set, what to type.

A :class:`TransferError` is shown as one sentence without a traceback; anything else is a defect of
ours and keeps its traceback.
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
    """Base of every error that the user can mend.

    Attributes:
        exit_code: Exit status of the command that ends with this error.
    """

    exit_code = 2


class ConfigError(TransferError):
    """The configuration cannot be run; lists every fault found, not only the first."""

    def __init__(self, faults: str | Iterable[str]) -> None:
        self.faults = [faults] if isinstance(faults, str) else list(faults)
        super().__init__("\n".join(self.faults))


class DataError(TransferError):
    """The data on disk is not what the configuration says."""


class CheckpointError(TransferError):
    """A checkpoint or weights file is missing, broken or of another kind."""


class TrainingError(TransferError):
    """Training cannot go on (a loss that is not finite, a dead discriminator)."""

    exit_code = 3


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return a hint naming the valid choices nearest to ``word``.

    >>> nearest("reset18", ["resnet18", "resnet50", "vgg16_bn"])
    "did you mean 'resnet18'?"
    >>> nearest("zzz", ["a", "b"])
    'valid: a, b'
    """
    names = sorted(choices)
    close = get_close_matches(word, names, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"valid: {', '.join(names)}"
