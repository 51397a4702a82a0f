"""Settings of ``tl-serve`` and ``tl-demo``, checked before a model is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from tl_lightning.config.compose import default_node
from tl_lightning.errors import ConfigError

__all__ = ["MEGABYTE", "SERVE_KEYS", "ServeSettings"]

MEGABYTE = 1_000_000
#: Pillow refuses more, see :mod:`tl_lightning.data.io.images`.
MOST_PIXELS = 178_956_970


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Settings of a server, described in ``conf/serve/default.yaml``."""

    host: str
    port: int
    precision: float | None
    top: int
    max_batch: int
    max_wait_ms: float
    max_queue: int
    threads: int
    max_inputs: int
    max_mb: float
    max_buffered_mb: float
    max_pixels: int
    max_characters: int
    upload_s: float
    timeout_s: float

    @classmethod
    def of(cls, given: Mapping[str, str]) -> Self:
        """Return the settings with values as they are typed on the command line.

        Raises:
            ConfigError: Lists every value that is not a number, out of range, or contradicts
                another one.
        """
        values: dict[str, Any] = default_node("serve", "default")
        problems = []
        for key, text in given.items():
            try:
                values[key] = _value(key, text)
            except ValueError as error:
                problems.append(f"{key}={text} {error}; set {key}={_example(key)}")
        if not problems:
            problems = _contradictions(values)
        if problems:
            raise ConfigError(problems)
        return cls(**values)


#: Names of the settings.
SERVE_KEYS = tuple(field.name for field in fields(ServeSettings))
#: Smallest values; of the others, anything above 0.
_LEAST = {"port": 0, "max_wait_ms": 0}
_MOST = {"port": 65535, "max_pixels": MOST_PIXELS, "max_mb": 1000}


def _example(key: str) -> Any:
    found = default_node("serve", "default")[key]
    return 0.95 if key == "precision" else found


def _value(key: str, text: str) -> Any:
    """Return a setting's value; raise ValueError with the second half of a message."""
    if key == "host":
        if not text.strip():
            raise ValueError("is empty")
        return text
    if key == "precision":
        if text in ("null", "none"):
            return None
        value = _number(text, float)
        if not 0 < value < 1:
            raise ValueError("is not a fraction between 0 and 1")
        return value
    kind = {"int": int, "float": float}[str(ServeSettings.__annotations__[key])]
    value = _number(text, kind)
    least, most = _LEAST.get(key, 1 if kind is int else 0), _MOST.get(key)
    if value < least or (value == 0 and key not in _LEAST):
        raise ValueError(f"is less than {least}" if value else "is not above 0")
    if most is not None and value > most:
        raise ValueError(f"is more than {most}")
    return value


def _number(text: str, kind: type) -> Any:
    whole = kind is int
    try:
        value = kind(text)
    except ValueError:
        raise ValueError("is not a whole number" if whole else "is not a number") from None
    if not math.isfinite(value):
        raise ValueError("is not a finite number")
    return value


def _contradictions(values: Mapping[str, Any]) -> list[str]:
    """Return settings that do not fit together."""
    found = []
    for small, large in (
        ("max_inputs", "max_queue"), ("max_batch", "max_queue"), ("max_mb", "max_buffered_mb"),
    ):  # fmt: skip
        if values[small] > values[large]:
            found.append(
                f"{small}={values[small]} is more than {large}={values[large]}, so that such a "
                f"request or batch could never be served; set {large}={values[small]} or more"
            )
    return found
