"""Check of plain YAML values against type hints, with numeric bounds."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

__all__ = ["Bounds", "above", "at_least", "describe", "fits", "within"]


@dataclass(frozen=True)
class Bounds:
    """Interval that a number must be in, for ``Annotated[float, Bounds(...)]``.

    Attributes:
        low: Smallest valid value.
        high: Largest valid value.
        open: Whether ``low`` itself is not valid.
    """

    low: float = float("-inf")
    high: float = float("inf")
    open: bool = False

    def __contains__(self, value: float) -> bool:
        return (self.low < value if self.open else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        if self.high != float("inf"):
            return f"in {'(' if self.open else '['}{self.low:.16g}, {self.high:.16g}]"
        return f"above {self.low:g}" if self.open else f"of at least {self.low:g}"


def at_least(low: float) -> Bounds:
    """Return the bounds ``[low, inf)``."""
    return Bounds(low)


def above(low: float) -> Bounds:
    """Return the bounds ``(low, inf)``."""
    return Bounds(low, open=True)


def within(low: float, high: float, *, open: bool = False) -> Bounds:
    """Return the bounds ``[low, high]``, or ``(low, high]`` if ``open``."""
    return Bounds(low, high, open)


def fits(value: Any, hint: Any) -> bool:
    """Return whether a plain YAML value may be passed where ``hint`` is declared.

    >>> fits("abc", float), fits(1, float), fits(True, int), fits(None, int | None)
    (False, True, False, True)
    >>> fits([1, 2], Sequence[int]), fits(["a"], Sequence[int])
    (True, False)
    >>> fits(0, Annotated[int, at_least(1)]), fits(0.5, Annotated[float, within(0, 1)])
    (False, True)
    """
    if hint is Any or isinstance(hint, typing.TypeVar):
        return True
    if isinstance(value, Mapping) and "_target_" in value:
        return True
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        bounds = [one for one in hint.__metadata__ if isinstance(one, Bounds)]
        return fits(value, args[0]) and all(value in one for one in bounds)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, arg) for arg in args)
    if origin is Literal:
        return any(value == arg and type(value) is type(arg) for arg in args)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is None or hint is type(None):
        return value is None
    base = origin or hint
    if not inspect.isclass(base):
        return True
    if issubclass(base, Mapping):
        return isinstance(value, Mapping)
    if base is not str and issubclass(base, Sequence | Set):
        inner = args[0] if args else Any
        return isinstance(value, list | tuple) and all(fits(item, inner) for item in value)
    return isinstance(value, base)


_NAMES = {float: "a number", int: "an integer", bool: "true or false", str: "a string"}


def describe(hint: Any) -> str:
    """Describe a type hint in words.

    >>> describe(Sequence[int]), describe(Annotated[int, at_least(1)] | None)
    ('a list of integers', 'an integer of at least 1 or null')
    >>> describe(Literal["off", "on"]), describe(Annotated[float, within(0, 1, open=True)])
    ('one of off, on', 'a number in (0, 1]')
    >>> describe(Literal["auto"] | bool | int)
    'auto, true, false or an integer'
    """
    if hint in _NAMES:
        return _NAMES[hint]
    if hint is None or hint is type(None):
        return "null"
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return " ".join([describe(args[0]), *map(str, hint.__metadata__)])
    if origin in (typing.Union, types.UnionType):
        plain = [a for a in args if a in _NAMES or a is type(None) or get_origin(a) is not None]
        words = dict.fromkeys(word for arg in plain or args for word in _alternatives(arg))
        *others, last = words
        return f"{', '.join(others)} or {last}" if others else last
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin is not None and args:
        if not issubclass(origin, Sequence | Set):
            return "a mapping"
        noun = re.fullmatch(r"an? (\w+)", describe(args[0]))
        return f"a list of {noun[1]}s" if noun else f"a list (each item {describe(args[0])})"
    return getattr(hint, "__name__", str(hint))


def _alternatives(hint: Any) -> list[str]:
    """Return what a member of a union adds to the list of valid values."""
    if get_origin(hint) is Literal:
        return list(map(str, get_args(hint)))
    return ["true", "false"] if hint is bool else [describe(hint)]
