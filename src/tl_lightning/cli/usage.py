"""The help text of the commands other than ``tl-train``, in sections of options."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

__all__ = ["CHECKPOINT", "SERVES", "SETTINGS", "TRAINS", "Usage"]

#: Longest line, and the column at which the descriptions of options start.
WIDTH, COLUMN = 100, 22
#: Descriptions of options that several commands share.
CHECKPOINT = {
    "checkpoint": "run folder, checkpoint (.ckpt), published folder, or owner/name on the hub",
    "allow": "[<import path>,...]: classes outside this package that the checkpoint may build",
}
#: Exit codes of commands that train, and of those that serve until they are stopped.
TRAINS = (
    "0: done; 2: the command, the data or the checkpoint cannot be used; 3: training cannot "
    "continue; 130: Ctrl-C; 143: SIGTERM or SIGUSR1"
)
SERVES = (
    "0: stopped by SIGTERM or the first Ctrl-C; 2: the command or the checkpoint cannot be used; "
    "130: Ctrl-C before it serves, or a second one"
)
SETTINGS = {"<key>": "any other setting of train.py; train.py --help lists them"}


@dataclass(frozen=True)
class Usage:
    """What ``--help`` of a command prints.

    Attributes:
        lines: The forms of the command.
        about: What it does and writes.
        sections: Description of each option, by title of the section and by name.
        examples: Commands to copy.
        codes: Meaning of the exit codes.
    """

    lines: tuple[str, ...]
    about: str
    sections: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    examples: tuple[str, ...] = ()
    codes: str = "0: done; 2: the command, the data or the checkpoint cannot be used; 130: Ctrl-C"

    @property
    def options(self) -> set[str]:
        """Return the names of all options that are described."""
        return {name for section in self.sections.values() for name in section}

    def __str__(self) -> str:
        """Return the text."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield from textwrap.wrap(self.about, WIDTH)
        yield ""
        for number, line in enumerate(self.lines):
            start = "       " if number else "Usage: "
            yield from _wrapped(start + line, " " * 11)
        for title, options in self.sections.items():
            yield from ("", f"{title}:")
            for name, text in options.items():
                yield from _wrapped(f"  {name}=".ljust(COLUMN - 1) + f" {text}", " " * COLUMN)
        if self.examples:
            yield from ("", "Examples:", *(f"  {example}" for example in self.examples))
        yield from ("", *_wrapped(f"Exit codes: {self.codes}", " " * 12))


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False,
        drop_whitespace=True,
    )  # fmt: skip
