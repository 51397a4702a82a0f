"""Command-line overrides as people type them, quoted where Hydra's grammar needs it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Quote, QuotedString
from hydra.errors import HydraException

from tl_lightning.config.elsewhere import elsewhere
from tl_lightning.config.paths import choices

__all__ = ["NAMES", "TEXTS", "joined", "override_problems", "override_values", "quoted", "readable"]

#: Settings that are a text, such as a path: ``data.root=2024`` is not a number.
TEXTS = frozenset({
    "backbone.checkpoint", "backbone.name", "backbone.package", "backbone.tag",
    "backbone.tokenizer", "backbone.weights", "cache.dir", "data.delimiter",
    "data.elsewhere", "data.name", "data.root", "data.source.root", "data.source.test",
    "data.source.train", "data.source.url", "data.table", "data.target.root", "data.target.table",
    "data.target.test", "data.target.train", "data.target.url", "hydra.run.dir",
    "hydra.sweep.dir", "init", "model.name", "resume", "selection",
})  # fmt: skip
#: Settings that are a list of texts, such as names of classes: ``data.classes=[01,1e3]``.
NAMES = frozenset({
    "allow", "backbone.lora.targets", "data.classes", "data.folders", "data.label_columns",
    "data.source.domain", "data.target.domain", "model.candidates", "tags",
})  # fmt: skip
#: Settings below these are texts, or lists of texts.
_SECTIONS = ("data.columns.",)

_FORM = re.compile(r"(\+{0,2}(?:[\w./@]|(?<=\w)-)+)=(.*)", re.DOTALL)


def readable(arguments: Sequence[str], sweep: bool = False) -> list[str]:
    """Return arguments that Hydra reads as they were meant.

    A list that the shell has split at its spaces is put together. A value that Hydra's grammar
    refuses, as in ``data.root=~/josé``, is quoted, and so are values of settings that are texts,
    and of lists of names, that YAML would read as numbers, ``null`` or ``true``. Sweeps and
    everything that Hydra reads already remain as they are.

    Args:
        arguments: Overrides; anything else, such as ``-m``, is not changed.
        sweep: Whether commas separate the values of a sweep.

    >>> readable(["method=[dann,", "mcc]", "data.root=/my images (1)", "data.classes=[01,1e3]"])
    ['method=[dann, mcc]', "data.root='/my images (1)'", "data.classes=[01,'1e3']"]
    """
    return [_readable(argument, sweep) for argument in joined(arguments)]


def joined(arguments: Sequence[str]) -> list[str]:
    """Put lists and mappings together that the shell has split at spaces.

    >>> joined(["method=[dann,", "mcc]", "seed=0"])
    ['method=[dann, mcc]', 'seed=0']
    """
    found: list[str] = []
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if _FORM.fullmatch(argument) and not _parsed(argument):
            for number in range(1, len(waiting) + 1):
                whole = " ".join([argument, *waiting[:number]])
                if "=" in waiting[number - 1] or argument.partition("=")[2][:1] not in ("[", "{"):
                    break
                if _parsed(whole):
                    argument, waiting = whole, waiting[number:]
                    break
        found.append(argument)
    return found


def _readable(argument: str, sweep: bool) -> str:
    form = _FORM.fullmatch(argument)
    if form is None:
        return argument
    key, text = form[1], form[2]
    name = key.lstrip("+")
    override = _parsed(argument)
    if name in NAMES or name.startswith(_SECTIONS):
        value = _names(text, sweep)
    elif name in TEXTS:
        value = _text(text, sweep)
    elif override or text[:1] in ("[", "{") or (sweep and "," in text):
        return argument
    else:
        value = quoted(text)
    changed = f"{key}={value}"
    return changed if _parsed(changed) else argument


def _names(text: str, sweep: bool) -> str:
    """Return a name, a list of names or a sweep over these, with quotes where they are needed."""
    plain = text.strip()
    items = _split(plain)
    if len(items) > 1:  # a sweep, or an error without -m
        return ",".join(_names(item, sweep) for item in items) if sweep else text
    if plain.startswith("[") and plain.endswith("]"):
        inner = [_name(item) for item in _split(plain[1:-1]) if item.strip()]
        return f"[{','.join(inner)}]"
    return _text(text, sweep)


def _text(text: str, sweep: bool) -> str:
    """Return a text with quotes if Hydra would read it as anything else but null."""
    override = _parsed(f"k={text}")
    if override is None:
        return text if sweep and "," in text else quoted(text)
    if override.is_sweep_override():
        simple = isinstance(override._value, ChoiceSweep) and override._value.simple_form
        return ",".join(_text(item, sweep) for item in _split(text)) if sweep and simple else text
    value = override.value()
    return text if value is None or isinstance(value, str) else quoted(text)


def _name(text: str) -> str:
    item = text.strip()
    override = _parsed(f"k=[{item}]")  # in a list, a backslash at the end is read otherwise
    plain = override is not None and not override.is_sweep_override()
    kept = plain and [type(one) for one in override.value()] == [str]
    return item if kept else quoted(item)


def _split(text: str) -> list[str]:
    """Split a text at commas outside of quotes and parentheses.

    >>> _split("a,[b,c],'d,e'")
    ['a', '[b,c]', "'d,e'"]
    """
    parts, depth, quote = [""], 0, ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"" and not parts[-1].strip():
            quote = char
        else:
            depth += (char in "[({") - (char in "])}")
        if char == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += char
    return parts


def quoted(text: str, quote: Quote = Quote.single) -> str:
    r"""Return a text as a quoted value of a command-line override.

    >>> print(quoted("it's"))
    'it\'s'
    """
    return QuotedString(text=text, quote=quote).with_quotes()


def _parsed(argument: str) -> Any:
    """Return the parsed override, or None if Hydra refuses it."""
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None


def override_values(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the values of ``key=value`` overrides by key; those of one key replace each other."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return {override.key_or_group: override.value() for override in parsed}


def override_problems(arguments: Sequence[str], sweep: bool = False) -> list[str]:
    """Return what Hydra cannot read in :func:`readable` arguments, and what to set instead.

    Args:
        arguments: Overrides and flags.
        sweep: Whether commas separate the values of a sweep.
    """
    problems = []
    takes_value = False  # of a flag such as --config-name
    for argument in arguments:
        flag = argument.startswith("-")
        if flag and (setting := elsewhere(argument.partition("=")[0].lstrip("-"))):
            problems.append(f"{argument} is not an option; use {setting}")
        if flag or (takes_value and "=" not in argument):
            takes_value = flag and argument not in ("-m", "--multirun") and "=" not in argument
            continue
        takes_value = False
        override = _parsed(argument)
        key, equals, text = argument.partition("=")
        if override is None and not (equals or argument.startswith("~")):
            problems.append(
                f"{argument} is not <key>=<value>; set {argument}=<value>, or put quotes around a "
                f"setting with spaces, as in {shlex.quote(f'data.root=/my {argument}')}"
            )
        elif override is None:
            problems.append(f"{argument} cannot be read; for a text, set {_typed(key, text)}")
        elif override.is_sweep_override() and not sweep:
            one = "" if choices(key.lstrip("+")) else f", or set {_typed(key, text)} for one value"
            problems.append(
                f"{argument} has several values, which only a sweep takes; add -m for a sweep{one}"
            )
    return problems


def _typed(key: str, text: str) -> str:
    """Return an override of one text as it is typed in a shell."""
    return shlex.quote(f"{key}={quoted(text, Quote.double)}")
