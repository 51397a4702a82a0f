"""Search space: parsing and sampling of settings such as ``optimizer.lr=log(1e-4,1e-2)``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tl_lightning.errors import ConfigError

__all__ = ["Setting", "StoredTrial", "Trial", "read_setting", "split"]

KINDS = ("log", "uniform", "int", "choice")
_FORM = re.compile(rf"({'|'.join(KINDS)})\((.*)\)", re.DOTALL)


class Trial(Protocol):
    """Interface of ``optuna.Trial`` used here."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        """Return a number between the bounds."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """Return an integer between the bounds, inclusive."""

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> Any:
        """Return one of the choices."""


@dataclass(frozen=True)
class Setting:
    """A setting to tune.

    Attributes:
        key: Key on the command line.
        kind: ``log`` (log-uniform), ``uniform``, ``int`` or ``choice``.
        values: The two bounds, or the choices.
    """

    key: str
    kind: str
    values: tuple[str, ...]

    def draw(self, trial: Trial) -> str:
        """Return the override for a trial.

        Numbers are rounded to six digits, so that the printed command is exactly what was run.
        """
        if self.kind == "choice":
            return f"{self.key}={trial.suggest_categorical(self.key, self.values)}"
        low, high = map(float, self.values)
        if self.kind == "int":
            return f"{self.key}={trial.suggest_int(self.key, int(low), int(high))}"
        value = trial.suggest_float(self.key, low, high, log=self.kind == "log")
        return f"{self.key}={value:.6g}"


@dataclass(frozen=True)
class StoredTrial:
    """A trial that was sampled earlier, whose values are only taken from the search space.

    A study may have been written by somebody else: overrides stored in it would be executed as
    if they had been given on the command line.

    Attributes:
        params: The sampled values by name, as stored.
    """

    params: Mapping[str, Any]

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        """Return the stored number."""
        value = self.params.get(name)
        valid = isinstance(value, float) and low <= value <= high
        return float(self._checked(name, value, valid))

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """Return the stored integer."""
        value = self.params.get(name)
        valid = isinstance(value, int) and low <= value <= high
        return int(self._checked(name, value, valid))

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> Any:
        """Return the stored choice."""
        value = self.params.get(name)
        return self._checked(name, value, value in choices)

    def _checked(self, name: str, value: Any, valid: bool) -> Any:
        if not valid:
            raise ConfigError(
                f"a trial of this study has {name}={value}, which is not in the search space of "
                "this command; set another tune.dir"
            )
        return value


def split(text: str) -> list[str]:
    """Split a text at commas outside of parentheses.

    >>> split("linear, [dann,mcc], 'a'")
    ['linear', '[dann,mcc]', "'a'"]
    """
    parts, depth = [""], 0
    for char in text:
        depth += (char in "[({") - (char in "])}")
        if char == "," and not depth:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts]


def read_setting(key: str, text: str) -> Setting | None:
    """Parse a setting to tune; return None if ``text`` is a plain value.

    >>> read_setting("optimizer.lr", "log(1e-4, 1e-2)")
    Setting(key='optimizer.lr', kind='log', values=('1e-4', '1e-2'))
    >>> read_setting("optimizer.lr", "0.1") is None
    True

    Raises:
        ConfigError: If the bounds or choices are not valid.
    """
    form = _FORM.fullmatch(text.strip())
    if form is None:
        return None
    kind, values = form[1], tuple(split(form[2]))
    if kind == "choice":
        if len({*values, ""}) < len(values) + 1 or len(values) < 2:
            raise ConfigError(
                f"{key}={text} must have at least two distinct choices; set {key}=choice(<a>,<b>)"
            )
        return Setting(key, kind, values)
    hint = f"set for example {key}={kind}({'1,8' if kind == 'int' else '1e-4,1e-2'})"
    try:
        low, high = map(float, values)
    except ValueError:
        raise ConfigError(f"{key}={text} must have two numeric bounds; {hint}") from None
    integer = kind != "int" or (low.is_integer() and high.is_integer())
    if not (math.isfinite(low) and math.isfinite(high) and low < high and integer):
        kinds = "integers" if kind == "int" else "finite numbers"
        raise ConfigError(f"the bounds of {key}={text} must be increasing {kinds}; {hint}")
    if kind == "log" and low <= 0:
        raise ConfigError(f"{key}={text} must have a positive lower bound, got {low:g}; {hint}")
    return Setting(key, kind, values)
