"""Names of classes, as folders, tables, lists, vectors and settings write them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

__all__ = [
    "by_class", "class_name", "composed_form", "label_problem", "plain_name", "similar_names",
]  # fmt: skip

#: Labels that are fractional numbers or missing values, as written by other programs.
_NO_LABEL = re.compile(
    r"[+-]?(\d*\.\d+|\d+\.\d*)(e[+-]?\d+)?|nan|none|null|<na>|n/a|[+-]?inf", re.IGNORECASE
)


def composed_form(text: str) -> str:
    """Return a text with composed letters (NFC), as file systems and archives differ in them."""
    return unicodedata.normalize("NFC", text)


def class_name(label: str) -> str:
    r"""Return the name of a class: composed letters, without spaces around it.

    >>> class_name("cafe\u0301 ") == class_name("caf\u00e9")
    True
    """
    return composed_form(label).strip()


def label_problem(label: str) -> str:
    """Return why a label in a table or an array is not a class; an empty one may be missing.

    >>> label_problem("nan"), label_problem("1.5"), label_problem("7"), label_problem("")
    ('a label that is neither a name nor an integer', 'a label that is neither a name nor an \
integer', '', '')
    """
    found = _NO_LABEL.fullmatch(label)
    return "a label that is neither a name nor an integer" if found else ""


def plain_name(name: str) -> str:
    """Return the letters and digits of a name in lower case, to compare names by.

    >>> plain_name("Polar Bear") == plain_name("polar_bear")
    True
    """
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def similar_names(names: Iterable[str]) -> list[list[str]]:
    """Return groups of class names that differ only in case or spaces.

    >>> similar_names(["cat", "Cat", "dog"])
    [['cat', 'Cat']]
    """
    variants: dict[str, list[str]] = {}
    for name in names:
        variants.setdefault(" ".join(name.split()).casefold(), []).append(name)
    return [group for group in variants.values() if len(group) > 1]


def by_class(folders: Sequence[Path], files: Callable[[Path], list[Path]]) -> dict[str, list[Path]]:
    """Return the files in class folders by the name of the class, sorted."""
    found: dict[str, list[Path]] = {}
    for folder in folders:
        found.setdefault(class_name(folder.name), []).extend(files(folder))
    return dict(sorted(found.items()))
