"""The blocks of code in README.md and docs, and how the tests treat each of them."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tl_lightning.config.overrides import _split

REPO = Path(__file__).resolve().parents[1]
#: docs/settings.md is generated, and has no commands.
PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").glob("*.md"))]
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.S | re.M)
#: The comment in front of a block that no test executes.
MARK = re.compile(r"<!-- not executed: (.+?) -->\n*\Z", re.S)
#: Languages of a block of commands.
SHELL = ("", "sh", "bash")
#: Languages of output and configuration.
OTHER = ("text", "yaml")
#: First words of commands, as they would be in blocks that are only indented.
INDENTED = re.compile(r"^    (?:python|pip|make|tl-[a-z]+|train\.py|tune\.py) .*$", re.M)


class Block(NamedTuple):
    """A block of code.

    Attributes:
        page: Name of its file.
        line: Where it starts.
        kind: ``python``, ``commands`` or ``other``.
        language: As it is written after the fence.
        code: Its text, without common indentation.
        reason: Why it is not executed; empty if it is.
    """

    page: str
    line: int
    kind: str
    language: str
    code: str
    reason: str

    @property
    def name(self) -> str:
        """Return the page and line, as the id of a test."""
        return f"{self.page}:{self.line}"


def blocks_of(text: str, page: str) -> Iterator[Block]:
    r"""Return the fenced blocks of a page.

    >>> text = "a\n<!-- not executed: b -->\n```\nc\n```"
    >>> [(block.line, block.kind, block.reason) for block in blocks_of(text, "")]
    [(3, 'commands', 'b')]
    """
    for found in FENCE.finditer(text):
        before = text[: found.start()]
        marked = MARK.search(before)
        code = re.sub(rf"^{found[1]}", "", found[3], flags=re.M)
        kind = "commands" if found[2] in SHELL else "python" if found[2] == "python" else "other"
        reason = " ".join(marked[1].split()) if marked else ""
        yield Block(page, before.count("\n") + 1, kind, found[2], code, reason)


def all_blocks() -> list[Block]:
    """Return the blocks of all pages."""
    return [block for page in PAGES for block in blocks_of(page.read_text(), page.name)]


class Command(NamedTuple):
    """A command of a block.

    Attributes:
        program: Such as ``train`` for ``tl-train`` and for ``python scripts/train.py``; of others,
            the first word.
        arguments: The words after it, without comments.
    """

    program: str
    arguments: tuple[str, ...]


def commands_of(code: str) -> list[Command]:
    r"""Return the commands of a block.

    >>> [tuple(one) for one in commands_of("tl-train a=1 \\\n  b=[1, 2]  # c\n$ make lint\n")]
    [('train', ('a=1', 'b=[1,', '2]')), ('make', ('lint',))]
    """
    lines = re.sub(r"[ \t]*\\\n\s*", " ", code).splitlines()
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]
    return [_command(one) for one in words if one]


def _command(words: Sequence[str]) -> Command:
    for number, word in enumerate(words):
        script = re.fullmatch(r"(?:(?:scripts/)?(\w+)\.py|tl-([a-z-]+))", word)
        launched = words[:number] in ([], ["python"]) or words[0] == "torchrun"
        if script and launched:
            name = script[1] or script[2].replace("-", "_")
            return Command(name, tuple(words[number + 1 :]))
    return Command(words[0], tuple(words[1:]))


#: Pages whose blocks are executed by ``test_pages.py``, ``test_documentation.py`` and
#: ``test_notebooks.py`` in ``tests/integration``.
EXECUTED: dict[str, tuple[str, ...]] = {
    "bring_your_own.md": ("python", "commands"),
    "README.md": ("python",),
    "adaptation.md": ("python",),
    "add_a_method.md": ("python",),
    "export.md": ("python", "commands"),
    "notebook_adaptation.md": ("python",),
    "notebook_quickstart.md": ("python",),
    "prediction.md": ("python", "commands"),
    "python_api.md": ("python",),
    "quickstart.md": ("python",),
    "serving.md": ("python",),
    "sharing.md": ("python", "commands"),
}


def treatment(block: Block) -> str:
    """Return ``executed``, ``validated``, ``not executed``, ``output`` or ``configuration``."""
    if block.kind == "other":
        return "configuration" if block.language == "yaml" else "output"
    if block.reason:
        return "not executed"
    return "executed" if block.kind in EXECUTED.get(block.page, ()) else "validated"


def counts(blocks: Sequence[Block]) -> dict[str, Counter[str]]:
    """Return how many blocks of each kind have each treatment."""
    found: dict[str, Counter[str]] = {}
    for block in blocks:
        found.setdefault(block.kind, Counter())[treatment(block)] += 1
    return found


def fixed_values(settings: Sequence[str], sweep: bool) -> list[list[str]]:
    """Return configurations in which every value of a sweep occurs at least once.

    >>> fixed_values(["a=1,2", "b=[3,4]", "c=5,6,7"], sweep=True)
    [['a=1', 'b=[3,4]', 'c=5'], ['a=2', 'b=[3,4]', 'c=6'], ['a=1', 'b=[3,4]', 'c=7']]
    """
    pairs = [one.partition("=")[::2] for one in settings]
    values = [_split(value) if sweep else [value] for _, value in pairs]
    keys = [key for key, _ in pairs]
    return [
        [f"{key}={each[number % len(each)]}" for key, each in zip(keys, values, strict=True)]
        for number in range(max(map(len, values), default=1))
    ]


if __name__ == "__main__":
    for kind, found in counts(all_blocks()).items():
        print(kind, dict(found))
