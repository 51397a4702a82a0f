"""Generator for docs/settings.md and the hints of ``--help``: ``python scripts/dev/settings.py``.

Comments and defaults are those in ``conf/``; valid values, and the description of a setting without
a comment, are taken from the classes that it is passed to.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import OmegaConf

from tl_lightning.config.hints import describe
from tl_lightning.config.instantiate import ALLOWED, find_class
from tl_lightning.config.paths import CONF, choices
from tl_lightning.config.reference import (
    HINTS,
    Choice,
    Setting,
    _hints,
    based_on,
    choice_of,
    group_names,
    train_settings,
)
from tl_lightning.config.schema import _SECTIONS, RunConfig
from tl_lightning.config.signatures import CONSUMED, RESOLVED, signature_of
from tl_lightning.utils.files import write_text

__all__ = ["hints", "main", "page"]

PAGE = CONF.parent / "docs" / "settings.md"
#: Groups whose files only combine settings of other groups.
COMBINED = ("experiment", "recipe", "recipe_for", "debug", "study")
#: Type hints that say nothing.
VAGUE = {"Any", "a mapping", "Mapping", "Callable"}


def arguments(cls: Any) -> dict[str, str]:
    """Return the descriptions of a class's arguments in its docstring and those of its bases."""
    found: dict[str, str] = {}
    for base in inspect.getmro(cls):
        if not base.__module__.startswith("tl_lightning"):
            continue
        for doc in filter(None, (vars(base).get("__doc__"), getattr(base.__init__, "__doc__", ""))):
            for name, text in described(doc).items():
                found.setdefault(name, text)
    return found


def described(doc: str) -> dict[str, str]:
    """Return the entries of the sections ``Args`` and ``Attributes`` of a docstring.

    >>> described("X.\\n\\nArgs:\\n    a: One\\n        thing.\\n    b: Two.\\n")
    {'a': 'One thing.', 'b': 'Two.'}
    """
    text = inspect.cleandoc(doc)
    entries: dict[str, str] = {}
    for section in re.findall(r"^(?:Args|Attributes):\n((?:[ ]+.*\n?|\n)+)", text, re.M):
        for entry in re.split(r"^    (?=\w)", section, flags=re.M):
            name, colon, rest = entry.partition(":")
            if colon and name.isidentifier():
                entries[name] = " ".join(rest.split()).replace("``", "`")
    return entries


def hints() -> dict[str, dict[str, dict[str, str]]]:
    """Return the valid values and descriptions of settings by class, or by node, and by key."""
    found: dict[str, dict[str, dict[str, str]]] = {"": dict(_of_schema())}
    for group in group_names():
        for name in choices(group):
            for part in based_on(CONF / group / f"{name}.yaml"):
                plain: Any = OmegaConf.to_container(OmegaConf.load(part), resolve=False)
                for target in _targets(plain):
                    found.setdefault(target, dict(_of_class(target)))
    trainer = get_type_hints(_SECTIONS["trainer"], include_extras=True)
    for node, types in (*CONSUMED.items(), ("trainer", trainer)):
        found[node] = {name: _hint(hint, "") for name, hint in types.items()}
    for node, names in RESOLVED.items():
        for name in names:
            found.setdefault(node, {}).setdefault(name, {})["auto"] = "true"
    listed = _listed_keys()
    kept = {
        node: {key: hint for key, hint in keys.items() if not node or key in listed}
        for node, keys in found.items()
    }
    return {node: keys for node, keys in kept.items() if keys}


def _listed_keys() -> set[str]:
    """Return the last part of every key in ``conf/``: a class may take many more."""
    return {
        setting.path.rpartition(".")[2]
        for group in group_names()
        for name in choices(group)
        for setting in choice_of(group, name).settings
    }


def _targets(plain: Any) -> Iterator[str]:
    if isinstance(plain, Mapping):
        target = plain.get("_target_")
        if isinstance(target, str) and target.split(".")[0] in ALLOWED:
            yield target
        for value in plain.values():
            yield from _targets(value)


def _of_class(target: str) -> Iterator[tuple[str, dict[str, str]]]:
    cls, problem = find_class(target, "", ALLOWED)
    if problem:  # of an optional package that is not installed
        return
    docs = arguments(cls)
    for name, one in signature_of(cls).parameters.items():
        if found := _hint(one.hint, docs.get(name, "")):
            yield name, found


def _of_schema() -> Iterator[tuple[str, dict[str, str]]]:
    for prefix, cls in (("", RunConfig), *((f"{key}.", part) for key, part in _SECTIONS.items())):
        assert is_dataclass(cls)
        docs, types = arguments(cls), get_type_hints(cls, include_extras=True)
        for one in fields(cls):
            if one.name not in (*_SECTIONS, "plain", "nodes"):
                yield f"{prefix}{one.name}", _hint(types[one.name], docs.get(one.name, ""))


def _hint(hint: Any, doc: str) -> dict[str, str]:
    values = describe(hint)
    known = {} if values in VAGUE or "TypeVar" in values else {"values": values}
    return known | ({"doc": doc} if doc else {})


def page() -> str:
    """Return docs/settings.md."""
    parts = [
        "# Settings",
        "Every key that can be set, generated from `conf/` by `make tables`. Set a key with "
        "`key=value`, a group with `group=choice`; `+key=value` adds one that a class takes but "
        "`conf/` does not list. `tl-train --help <group>` prints the same on the terminal, and "
        "`tl-train ... --cfg job` the composed configuration of a command.",
        "## General",
        _table(train_settings()),
    ]
    for group in group_names():
        parts.append(f"## {group}")
        for name in choices(group):
            parts.append(_section(choice_of(group, name), group not in COMBINED))
    return "\n\n".join(parts) + "\n"


def _section(choice: Choice, values: bool) -> str:
    lines = [f"### {choice.group}={choice.name}"]
    if choice.comment:
        lines.append(_prose(choice.comment))
    if choice.settings:
        lines.append(_table(choice.settings, values))
    return "\n\n".join(lines)


def _prose(comment: str) -> str:
    """Return the comment of a file; indented lines, which are commands or lists, as code."""
    blocks: list[tuple[bool, list[str]]] = []
    for line in comment.splitlines():
        code = line.startswith("  ")
        if not line.strip():
            blocks.append((False, []))
        elif blocks and blocks[-1][0] == code:
            blocks[-1][1].append(line)
        else:
            blocks.append((code, [line]))
    return "\n\n".join(
        "```text\n" + inspect.cleandoc("\n".join(["", *lines])) + "\n```" if code
        else "\n".join(map(_escaped, lines))
        for code, lines in blocks
        if lines
    )  # fmt: skip


def _table(settings: list[Setting], values: bool = True) -> str:
    rows = ["| key | default | values | description |", "|---|---|---|---|"]
    if not values:
        rows = ["| key | value | description |", "|---|---|---|"]
    for setting in settings:
        default = "" if setting.default is None else f"`{setting.default}`"
        cells = [f"`{setting.path}`", default, *([_escaped(setting.values)] if values else [])]
        text = _escaped(setting.comment)
        rows.append("| " + " | ".join([*(c.replace("|", r"\|") for c in cells), text]) + " |")
    return "\n".join(rows)


def _escaped(text: str) -> str:
    """Return text in which Markdown's special characters stand for themselves outside code.

    >>> _escaped("a_b_c of <x> | `d_e`")
    'a\\\\_b\\\\_c of &lt;x&gt; \\\\| `d_e`'
    """
    parts = re.split(r"(`[^`]*`)", text)
    for number in range(0, len(parts), 2):
        plain = parts[number].replace("<", "&lt;").replace(">", "&gt;")
        parts[number] = re.sub(r"([_*\[\]|])", r"\\\1", plain)
    return "".join(parts)


def main(hints_file: Path = HINTS, page_file: Path = PAGE) -> None:
    """Write both files."""
    text = json.dumps(hints(), indent=1, ensure_ascii=False, sort_keys=True)
    write_text(hints_file, text + "\n")
    _hints.cache_clear()
    write_text(page_file, page())


if __name__ == "__main__":
    main()
