"""The pages in docs/: links, anchors and the navigation of the site."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tl_lightning as tl
from conftest import REPO
from tables import API, with_methods

DOCS = REPO / "docs"
PAGES = [REPO / "README.md", *sorted(DOCS.glob("*.md"))]
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


def anchors(text: str) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub and the site make them.

    >>> sorted(anchors("# A `b`, c\\n## A target: x"))
    ['a-b-c', 'a-target-x']
    """
    text = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    titles = re.findall(r"^#+ (.+)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def prose(text: str) -> str:
    """Return a page without its blocks of code and inline code."""
    return re.sub(r"`[^`\n]*`", "``", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for found in LINK.finditer(prose(page.read_text())):
        link = found[1] or found[2]
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link
        assert page.parent != DOCS or DOCS in target.parents or not name, f"not in the site: {link}"


def _files(entries: Any) -> Iterator[str]:
    for entry in entries:
        for value in entry.values():
            yield from [value] if isinstance(value, str) else _files(value)


def test_every_page_is_in_the_navigation_of_the_site_once() -> None:
    site = tomllib.loads((REPO / "zensical.toml").read_text())["project"]
    listed = list(_files(site["nav"]))
    assert sorted(listed) == sorted(page.name for page in DOCS.glob("*.md"))


def test_the_api_reference_has_every_public_name_and_no_other_modules() -> None:
    listed = re.findall(r"^::: (\S+)$", (DOCS / "api.md").read_text(), re.M)
    homes = {f"tl_lightning.{home}.{name}" for home, names in tl._HOMES.items() for name in names}
    assert homes <= set(listed)
    text = (REPO / API).read_text()
    assert with_methods(text) == text, "run: make tables"
    for path in listed:
        module = REPO / "src" / f"{path.replace('.', '/')}.py"
        parent, _, name = path.rpartition(".")
        file = module if module.is_file() else REPO / "src" / f"{parent.replace('.', '/')}.py"
        found = module.is_file() or re.search(rf"^(?:class|def) {name}\b", file.read_text(), re.M)
        assert found, path
