"""Generator for the tables in README.md from ``conf/``: ``python scripts/dev/readme_tables.py``.

Each row shows the first sentence of the comment at the top of a yaml file, so new methods and
datasets are added automatically.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tl_lightning.config.paths import CONF
from tl_lightning.errors import DataError
from tl_lightning.utils.files import write_text

__all__ = ["GROUPS", "main", "refreshed", "table"]

GROUPS = ("model", "method", "data", "backbone")


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
            raise DataError(f"README.md: table markers not found; restore {begin} and {end}")
        before, rest = text.split(begin, 1)
        after = rest.split(end, 1)[1]
        text = f"{before}{begin}\n{table(group, conf)}\n{end}{after}"
    return text


def main(readme: Path = CONF.parent / "README.md") -> None:
    """Update the tables in README.md."""
    write_text(readme, refreshed(readme.read_text()))
    print(f"tables written: {readme}", file=sys.stderr)


if __name__ == "__main__":
    main()
