"""Nested mappings as flat ones, and texts that are safe to print, to store and to pass on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["csv_cell", "flatten", "masked", "printable", "printable_values", "shorten"]

#: Settings whose values are secrets, and the password in an address.
_SECRET = re.compile(r"(?:\w*_)?(?:password|passwd|secret|token|api_?key|access_key)")
_PASSWORD = re.compile(r"(://[^/\s:@'\"]*:)[^/\s@'\"]+(?=@)")
_ASSIGNED = re.compile(rf"((?:^|[\s.,{{+]){_SECRET.pattern}[=:]\s*)(?!null\b)[^\s,}}]+")


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as a flat dict with dotted keys, as used on the command line.

    >>> flatten({"method": {"dann": {"max_lambda": 0.1}}, "seed": 0})
    {'method.dann.max_lambda': 0.1, 'seed': 0}
    """
    if not isinstance(config, Mapping) or not config:
        return {prefix: config} if prefix else {}
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def shorten(items: Sequence[object], shown: int = 5, separator: str = ", ") -> str:
    """Return the first items as one line, with the number of those that are left out.

    >>> shorten(["a", "b", "c"], shown=2)
    'a, b and 1 more'
    """
    more = len(items) - shown
    rest = f"{';' if separator != ', ' else ''} and {more} more" if more > 0 else ""
    return separator.join(map(str, items[:shown])) + rest


def printable(text: str) -> str:
    r"""Return a text in which control characters, which change a terminal, are escaped.

    >>> print(printable("a\x1b[31mb"))
    a\x1b[31mb
    """
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", _escaped, text)


def printable_values(value: Any) -> Any:
    r"""Return a copy of plain values in which control characters of texts are escaped.

    >>> printable_values({"a\x1b": ["b\n", 1]})
    {'a\\x1b': ['b\n', 1]}
    """
    if isinstance(value, Mapping):
        return {printable_values(key): printable_values(one) for key, one in value.items()}
    if isinstance(value, list):
        return [printable_values(one) for one in value]
    return printable(value) if isinstance(value, str) else value


def _escaped(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1]


def csv_cell(text: str) -> str:
    """Return a cell of a CSV file that no spreadsheet evaluates as a formula.

    >>> csv_cell("=1+1"), csv_cell("-0.5"), csv_cell("a=b")
    ("'=1+1", '-0.5', 'a=b')
    """
    formula = text[:1] in ("=", "+", "-", "@", "\t", "\r")
    return f"'{text}" if formula and not re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", text) else text


def masked(value: Any, key: str = "") -> Any:
    """Return a copy of a plain configuration, or a text, without passwords and keys.

    >>> masked({"uri": "sql://me:pw@host/x", "api_key": "k", "tokenizer": "t"})
    {'uri': 'sql://me:***@host/x', 'api_key': '***', 'tokenizer': 't'}
    >>> masked("+logger.x.api_key=abc seed=1")
    '+logger.x.api_key=*** seed=1'
    """
    if isinstance(value, Mapping):
        return {name: masked(one, str(name)) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [masked(one, key) for one in value]
    if not isinstance(value, str):
        return value
    if value and _SECRET.fullmatch(key):
        return "***"
    return _ASSIGNED.sub(r"\1***", _PASSWORD.sub(r"\1***", value))
