"""Small results of reading images, kept in memory for the next runs of the same process."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

__all__ = ["KEPT", "remembered"]

T = TypeVar("T")
#: Number of results that are kept; a run makes at most three.
KEPT = 12
_results: dict[Hashable, object] = {}


def remembered(key: Hashable, make: Callable[[], T]) -> T:
    """Return ``make()``, or what it returned for the same key before.

    The jobs of a sweep read the same images for their reports. Results must not be changed.

    Args:
        key: Everything that the result depends on, such as a hash of the images' contents.
        make: Makes the result.

    >>> remembered("a key", lambda: [1]) is remembered("a key", lambda: [2])
    True
    """
    if key not in _results:
        _results[key] = make()
        while len(_results) > KEPT:
            _results.pop(next(iter(_results)))  # the oldest
    return _results[key]  # type: ignore[return-value]
