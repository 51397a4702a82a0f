"""The tables in README.md, made from ``conf/``: ``python scripts/dev/readme_tables.py``.

A choice's row is the first sentence of its yaml's comment, so that a new method or data set appears
by being there.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tl_lightning.config.paths import CONF
from tl_lightning.errors import DataError
from tl_lightning.utils.files import write_text

__all__ = ["GROUPS", "main", "refreshed", "table"]

GROUPS = ("model", "adapter", "data", "backbone")


def sentence(text: str) -> str:
    r"""Return the first sentence of a yaml's leading comment.

    >>> sentence("# @package adapter.foo\n# Foo, as in Bar (2020): much.\n# More.\nx: 1")
    'Foo, as in Bar (2020): much.'
    """
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.lstrip("# ").rstrip())
    found = re.match(
        r"(.+?[.])(?: |$)", re.sub(r"(\b[A-Z][a-z]* et al)\.", r"\1@", " ".join(lines))
    )
    return (found[1] if found else " ".join(lines)).replace("@", ".")


def table(group: str, conf: Path = CONF) -> str:
    """Return the Markdown table of a group's choices."""
    rows = [f"| `{group}=` | what it is |", "|---|---|"]
    for path in sorted((conf / group).glob("*.yaml")):
        choice = f"[{path.stem}]" if group == "adapter" else path.stem
        rows.append(f"| `{choice}` | {sentence(path.read_text())} |")
    return "\n".join(rows)


def refreshed(text: str, conf: Path = CONF) -> str:
    """Return ``text`` with every generated table made anew.

    Raises:
        DataError: If a table's marks are missing.
    """
    for group in GROUPS:
        begin, end = f"<!-- table {group} -->", f"<!-- end {group} -->"
        if begin not in text or end not in text:
            raise DataError(f"README.md has lost the marks of a table; put back {begin} and {end}")
        before, rest = text.split(begin, 1)
        after = rest.split(end, 1)[1]
        text = f"{before}{begin}\n{table(group, conf)}\n{end}{after}"
    return text


def main(readme: Path = CONF.parent / "README.md") -> None:
    """Write the tables into README.md."""
    write_text(readme, refreshed(readme.read_text()))
    print(f"tables written: {readme}", file=sys.stderr)


if __name__ == "__main__":
    main()
