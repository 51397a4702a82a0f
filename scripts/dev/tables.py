"""Generator for the tables and help texts in docs: ``python scripts/dev/tables.py``.

Each row shows the first sentence of the comment at the top of a yaml file, so new methods and
datasets are added automatically.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from tl_lightning.config.instantiate import find_class
from tl_lightning.config.paths import CONF
from tl_lightning.errors import DataError
from tl_lightning.utils.files import write_text

__all__ = [
    "COMMANDS",
    "GROUPS",
    "PAGE",
    "RANKS",
    "main",
    "ranks_table",
    "refreshed",
    "table",
    "with_commands",
    "with_ranks",
]

GROUPS = ("model", "method", "data", "backbone")
#: The page of these groups, and that of the ranks.
PAGE, RANKS = "docs/choices.md", "docs/scaling.md"
#: The page of the help texts, and the API reference.
COMMANDS, API = "docs/commands.md", "docs/api.md"


def sentence(text: str) -> str:
    r"""Return the first sentence of the comment at the top of a yaml file.

    >>> sentence("# @package method.foo\n# Foo, as in Bar (2020): much.\n# More.\nx: 1")
    'Foo, as in Bar (2020): much.'
    """
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.lstrip("# ").rstrip())
    comment = re.sub(r"(\b[A-Z][a-z]* et al)\.", r"\1@", " ".join(lines))
    match = re.match(r"(.+?[.])(?: |$)", comment)
    return (match[1] if match else comment).replace("@", ".")


def table(group: str, conf: Path = CONF) -> str:
    """Return a Markdown table of the choices of a config group."""
    rows = [f"| `{group}=` | description |", "|---|---|"]
    for path in sorted((conf / group).glob("[!_]*.yaml")):
        choice = f"[{path.stem}]" if group == "method" else path.stem
        rows.append(f"| `{choice}` | {sentence(path.read_text())} |")
    return "\n".join(rows)


def refreshed(text: str, conf: Path = CONF) -> str:
    """Return ``text`` with all generated tables updated.

    Raises:
        DataError: If the markers of a table are missing.
    """
    for group in GROUPS:
        begin, end = f"<!-- table {group} -->", f"<!-- end {group} -->"
        if begin not in text or end not in text:
            raise DataError(f"{PAGE}: table markers not found; restore {begin} and {end}")
        before, rest = text.split(begin, 1)
        after = rest.split(end, 1)[1]
        text = f"{before}{begin}\n{table(group, conf)}\n{end}{after}"
    return text


def ranks_table(conf: Path = CONF) -> str:
    """Return a Markdown table of what two ranks compute, by method."""
    found: dict[str, list[str]] = {}
    for path in sorted((conf / "method").glob("*.yaml")):
        node: Any = OmegaConf.load(path)
        cls = find_class(node["_target_"], path.stem)[0]
        kind = "norm" if cls.batch_statistics else "gather" if "gather" in node else "equal"
        found.setdefault(kind, []).append(path.stem)
    texts = {
        "equal": "equal to one rank with the whole batch",
        "gather": "equal with `gather=true`; otherwise the loss of each rank is that of its own "
        "samples",
        "norm": "differ: they train or adapt batch norm, whose statistics are those of each rank; "
        "`trainer.sync_batchnorm=true` makes one batch of them, on GPUs",
    }
    rows = ["| method | gradients of two ranks with half the batch each |", "|---|---|"]
    for kind, text in texts.items():
        names = ", ".join(f"`{name}`" for name in found[kind])
        rows.append(f"| {names} | {text} |")
    return "\n".join(rows)


def with_ranks(text: str, conf: Path = CONF) -> str:
    """Return docs/scaling.md with its generated table updated."""
    begin, end = "<!-- table ranks -->", "<!-- end ranks -->"
    before, rest = text.split(begin, 1)
    return f"{before}{begin}\n{ranks_table(conf)}\n{end}{rest.split(end, 1)[1]}"


def help_of(name: str, function: Callable[[], None]) -> str:
    """Return what ``<name> --help`` prints."""
    before, out = sys.argv, io.StringIO()
    sys.argv = [name, "--help"]
    try:
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            function()
    finally:
        sys.argv = before
    return out.getvalue().strip()


def with_commands(text: str, conf: Path = CONF) -> str:
    """Return docs/commands.md with the help texts of all commands but ``tl-train`` updated."""
    scripts = tomllib.loads((conf.parent / "pyproject.toml").read_text())["project"]["scripts"]
    parts = []
    for name in sorted(set(scripts) - {"tl-train"}):
        module, _, function = scripts[name].partition(":")
        found = help_of(name, getattr(import_module(module), function))
        parts.append(f"### {name}\n\n```text\n{found}\n```\n")
    begin, end = "<!-- commands -->", "<!-- end commands -->"
    before, rest = text.split(begin, 1)
    return f"{before}{begin}\n" + "\n".join(parts) + f"{end}{rest.split(end, 1)[1]}"


def with_methods(text: str, conf: Path = CONF) -> str:
    """Return docs/api.md with its list of the methods' modules updated."""
    names = sorted(path.stem for path in (conf / "method").glob("*.yaml"))
    begin, end = "<!-- methods -->", "<!-- end methods -->"
    before, rest = text.split(begin, 1)
    listed = "\n".join(f"::: tl_lightning.methods.{name}" for name in names)
    return f"{before}{begin}\n\n{listed}\n\n{end}{rest.split(end, 1)[1]}"


def main(folder: Path = CONF.parent) -> None:
    """Update the pages that have generated parts."""
    for path, change in (
        (PAGE, refreshed),
        (RANKS, with_ranks),
        (COMMANDS, with_commands),
        (API, with_methods),
    ):
        write_text(folder / path, change((folder / path).read_text()))
    print(f"tables written: {folder}", file=sys.stderr)


if __name__ == "__main__":
    main()
