"""Settings to try, as ``optimizer.lr=log(1e-4,1e-2)``: their grammar and how one is drawn."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tl_lightning.errors import ConfigError

__all__ = ["Setting", "Trial", "read_setting", "split"]

KINDS = ("log", "uniform", "int", "choice")
_FORM = re.compile(rf"({'|'.join(KINDS)})\((.*)\)", re.DOTALL)


class Trial(Protocol):
    """What is used of ``optuna.Trial``."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        """Return a number between the ends."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """Return a whole number between the ends, both included."""

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> Any:
        """Return one of the choices."""


@dataclass(frozen=True)
class Setting:
    """One setting to try.

    Attributes:
        key: As on the command line.
        kind: ``log`` (uniform in the logarithm), ``uniform``, ``int`` or ``choice``.
        values: The two ends, or the choices.
    """

    key: str
    kind: str
    values: tuple[str, ...]

    def draw(self, trial: Trial) -> str:
        """Return the override that a trial runs with.

        A number has six digits, so that the command that is printed is the one that was run.
        """
        if self.kind == "choice":
            return f"{self.key}={trial.suggest_categorical(self.key, self.values)}"
        low, high = map(float, self.values)
        if self.kind == "int":
            return f"{self.key}={trial.suggest_int(self.key, int(low), int(high))}"
        value = trial.suggest_float(self.key, low, high, log=self.kind == "log")
        return f"{self.key}={value:.6g}"


def split(text: str) -> list[str]:
    """Return what stands between commas, but for those within brackets.

    >>> split("linear, [dann,mcc], 'a'")
    ['linear', '[dann,mcc]', "'a'"]
    """
    found, depth = [""], 0
    for sign in text:
        depth += (sign in "[({") - (sign in "])}")
        if sign == "," and not depth:
            found.append("")
        else:
            found[-1] += sign
    return [part.strip() for part in found]


def read_setting(key: str, text: str) -> Setting | None:
    """Return a setting to try; None if ``text`` is one plain value.

    >>> read_setting("optimizer.lr", "log(1e-4, 1e-2)")
    Setting(key='optimizer.lr', kind='log', values=('1e-4', '1e-2'))
    >>> read_setting("optimizer.lr", "0.1") is None
    True

    Raises:
        ConfigError: If the ends are no ends.
    """
    form = _FORM.fullmatch(text.strip())
    if form is None:
        return None
    kind, values = form[1], tuple(split(form[2]))
    if kind == "choice":
        if len({*values, ""}) < len(values) + 1 or len(values) < 2:
            raise ConfigError(f"{key}={text} is no choice; type {key}=choice(<one>,<other>)")
        return Setting(key, kind, values)
    usual = f"type {key}={kind}({'1,8' if kind == 'int' else '1e-4,1e-2'})"
    try:
        low, high = map(float, values)
    except ValueError:
        raise ConfigError(f"{key}={text} has no two ends; {usual}") from None
    whole = kind != "int" or (low.is_integer() and high.is_integer())
    if not (math.isfinite(low) and math.isfinite(high) and low < high and whole):
        raise ConfigError(f"{key}={text} does not go from one number up to another; {usual}")
    if kind == "log" and low <= 0:
        raise ConfigError(f"{key}={text} starts at {low:g}, which has no logarithm; {usual}")
    return Setting(key, kind, values)
