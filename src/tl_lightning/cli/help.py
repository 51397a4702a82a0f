"""The help text of ``tl-train``: settings with comments, defaults and valid values."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from tl_lightning.config.paths import choices
from tl_lightning.config.reference import Setting, choice_of, group_names, train_settings
from tl_lightning.errors import ConfigError, nearest
from tl_lightning.utils.console import typed

__all__ = ["help_text"]

_USAGE = """\
Train, select, test and report one model, or a sweep of models with -m.

Usage: train.py [-m] [group=choice] [key=value] ...

  train.py model=dann data=dogs data.root=/data            # one run, in outputs/
  train.py -m model=source_only,dann seed=0,1,2            # a sweep
  train.py model=dann data=dogs optimizer.lr=0.01          # any setting below, or of a group
  train.py resume=auto hydra.run.dir=<run folder>          # continue an interrupted run

More help:

  train.py --help optimizer         # the choices of a group with their settings
  train.py --help method=dann       # one choice
  train.py model=dann --cfg job     # the composed configuration of a command
  train.py --hydra-help             # options of Hydra, such as --multirun and --config-dir"""
#: Widest lines in columns.
WIDTH = 100


def help_text(arguments: Sequence[str]) -> str:
    """Return the help text for the arguments besides ``--help``: none, groups or choices.

    Raises:
        ConfigError: If there is no such group or choice.
    """
    # Settings on the same command line, such as seed=0, do not matter for the help.
    own = {item.path for item in train_settings()} - {*group_names()}
    asked = [
        item
        for item in arguments
        if not item.startswith("-") and "." not in item and item.partition("=")[0] not in own
    ]
    if not asked:
        return "\n".join(_overview())
    return "\n\n".join("\n".join(_of_group(*item.partition("=")[::2])) for item in asked)


def _overview() -> Iterator[str]:
    yield typed(_USAGE)
    settings = train_settings()
    sections = {item.path for item in settings if item.default is None}
    yield from ("", "Settings, as key=default:", "")
    yield from _listed(item for item in settings if item.path.split(".")[0] not in sections)
    for section in sorted(sections):
        yield from ("", f"Settings of {section}:", "")
        yield from _listed(item for item in settings if item.path.startswith(f"{section}."))
    yield from ("", "Groups and their choices:", "")
    for group in group_names():
        yield from _wrapped(f"  {group}  ", ", ".join(choices(group)))


def _of_group(group: str, names: str) -> Iterator[str]:
    groups = group_names()
    if group not in groups:
        raise ConfigError(f"--help {group}: there is no such group; {nearest(group, groups)}")
    known = choices(group)
    chosen = [name.strip() for name in names.strip("[]").split(",")] if names else known
    for name in chosen:
        if name not in known:
            raise ConfigError(f"--help {group}={name}: no such choice; {nearest(name, known)}")
    for number, name in enumerate(chosen):
        choice = choice_of(group, name)
        yield from ([""] if number else [])
        yield f"{group}={name}"
        yield from (f"  {line}".rstrip() for line in choice.comment.splitlines())
        if choice.settings:
            yield ""
            yield from _listed(choice.settings)


def _listed(settings: Iterable[Setting]) -> Iterator[str]:
    for setting in settings:
        default = "" if setting.default is None else f"={setting.default}"
        yield f"  {setting.path}{default}"
        if setting.comment:
            yield from _wrapped("      ", setting.comment)
        if setting.values:
            yield from _wrapped("      valid: ", setting.values)


def _wrapped(start: str, text: str) -> list[str]:
    width = min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)
    indent = " " * min(len(start), 24)
    return textwrap.wrap(
        text,
        width,
        initial_indent=start,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
