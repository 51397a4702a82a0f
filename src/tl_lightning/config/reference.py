"""The settings in ``conf/`` with their comments, for help texts and the settings reference."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tl_lightning.config.paths import CONF

__all__ = ["HINTS", "Choice", "Setting", "based_on", "choice_of", "group_names", "train_settings"]

#: Valid values and descriptions of the settings, by class (or by node, where the code reads them
#: itself) and key; written by scripts/dev/settings.py, as importing the classes takes seconds.
HINTS = Path(__file__).with_name("setting_hints.json")
#: Keys that Hydra reads, or that name the class.
_SKIPPED = ("_target_", "_args_", "_partial_", "defaults", "hydra")


class Setting(NamedTuple):
    """A key that can be set.

    Attributes:
        path: On the command line, such as ``optimizer.lr``.
        default: As it is written in the file; None for a section.
        comment: What it does, from the file or, without a comment there, from the class.
        values: Its valid values in words; empty if they are not known.
    """

    path: str
    default: str | None
    comment: str
    values: str = ""


class Choice(NamedTuple):
    """A file of a group.

    Attributes:
        group: Such as ``optimizer``.
        name: Such as ``adam``.
        comment: The comment at the top of the file.
        settings: Its keys, and those of the files that it is based on.
    """

    group: str
    name: str
    comment: str
    settings: list[Setting]


def group_names() -> list[str]:
    """Return the groups of ``conf/`` in alphabetical order."""
    return sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")


def train_settings() -> list[Setting]:
    """Return the settings of ``conf/train.yaml``, which are those of no group."""
    return _completed(_settings(CONF / "train.yaml", ""), {"": ""})


def choice_of(group: str, name: str) -> Choice:
    """Return a file of a group with its settings."""
    file = CONF / group / f"{name}.yaml"
    found: dict[str, Setting] = {}
    targets: dict[str, str] = {}
    package = _package(file, group)
    for part in based_on(file):
        targets |= _targets(yaml.safe_load(part.read_text(encoding="utf-8")), package)
        for setting in _settings(part, package):
            # A file that changes only a default relies on the comment where the key is from.
            earlier = found.get(setting.path, setting)
            found[setting.path] = setting._replace(comment=setting.comment or earlier.comment)
    settings = _completed(found.values(), targets)
    return Choice(group, name, _header(file.read_text(encoding="utf-8")), settings)


def based_on(file: Path) -> list[Path]:
    """Return a file and the files of its group that it is based on, in the order of their use."""
    plain: Any = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    listed = plain.get("defaults", []) if isinstance(plain, dict) else []
    names = [item for item in listed if isinstance(item, str) and item != "_self_"]
    parts = [file.with_name(f"{name}.yaml") for name in names]
    return [*(each for part in parts if part.is_file() for each in based_on(part)), file]


@cache
def _hints() -> Mapping[str, Mapping[str, Mapping[str, str]]]:
    found: dict[str, dict[str, dict[str, str]]] = {}
    if HINTS.is_file():
        found = json.loads(HINTS.read_text(encoding="utf-8"))
    return found


def _targets(plain: Any, prefix: str) -> dict[str, str]:
    """Return the class of each node of a file by the node's path."""
    found = {}
    if isinstance(plain, Mapping):
        if isinstance(plain.get("_target_"), str):
            found[prefix.removesuffix(".")] = plain["_target_"]
        for key, value in plain.items():
            found |= _targets(value, f"{prefix}{key}.")
    return found


def _completed(settings: Iterable[Setting], targets: Mapping[str, str]) -> list[Setting]:
    """Add the valid values, and descriptions where a setting has no comment.

    Args:
        settings: Without them.
        targets: Class of each node; the settings of ``conf/train.yaml`` are those of the node "".
    """
    found = []
    for setting in settings:
        node, _, key = setting.path.rpartition(".")
        hint = {**_hints().get(targets.get(node, ""), {}).get(key, {})} if node in targets else {}
        hint |= _hints().get(node, {}).get(key, {})
        if "" in targets:
            hint = {**_hints()[""].get(setting.path, {})}
        values = hint.get("values", "")
        if "auto" in hint:
            values = f"auto, {values}" if " or " in values else f"auto or {values}"
        comment = setting.comment or hint.get("doc", "")
        found.append(setting._replace(comment=comment, values=values))
    return found


def _package(file: Path, group: str) -> str:
    """Return where the keys of a file are placed in the configuration, with a final dot."""
    package = re.match(r"# @package (\S+)", file.read_text(encoding="utf-8"))
    name = package[1] if package else group.replace("/", ".")
    return "" if name == "_global_" else f"{name}."


def _header(text: str) -> str:
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.removeprefix("#").removeprefix(" ").rstrip())
    return "\n".join(lines).strip("\n")


def _settings(file: Path, package: str) -> Iterator[Setting]:
    text = file.read_text(encoding="utf-8")
    root = yaml.compose(text)
    if isinstance(root, yaml.MappingNode):
        yield from _entries(root, package, text.splitlines())


def _entries(node: yaml.MappingNode, prefix: str, lines: list[str]) -> Iterator[Setting]:
    for key, value in node.value:
        if key.value in _SKIPPED:
            continue
        path = f"{prefix}{key.value}"
        section = isinstance(value, yaml.MappingNode) and bool(value.value)
        start = key.start_mark.line
        # A block ends where the next line starts.
        end = start if section else max(start, value.end_mark.line - (value.end_mark.column == 0))
        comment = " ".join(filter(None, [_above(lines, start), _beside(lines[end])]))
        yield Setting(path, None if section else _written(lines, value), comment)
        if section:
            yield from _entries(value, f"{path}.", lines)


def _written(lines: list[str], value: yaml.Node) -> str:
    """Return a value on one line: a scalar as it is written, anything else in flow style."""
    begin, end = value.start_mark, value.end_mark
    if isinstance(value, yaml.ScalarNode) and begin.line == end.line:
        return lines[begin.line][begin.column : end.column] or "null"
    plain = yaml.safe_load(yaml.serialize(value))
    flow: str = yaml.safe_dump(plain, default_flow_style=True, width=10**6)
    return flow.strip()


def _above(lines: list[str], start: int) -> str:
    """Return the comment above a key; the one at the top of a file is that of the file."""
    first = start
    while first > 0 and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    return " ".join(line.lstrip().lstrip("#").strip() for line in lines[first or start : start])


def _beside(line: str) -> str:
    """Return the comment at the end of a line.

    >>> _beside("  x: '#1'   # first"), _beside("x: a#b")
    ('first', '')
    """
    found = re.search(r"(?:^|\s)#\s?(.*)$", re.sub(r"'[^']*'|\"[^\"]*\"", "", line))
    return found[1].strip() if found else ""
