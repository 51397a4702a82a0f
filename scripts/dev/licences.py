"""Generator for docs/licences.md: ``python scripts/dev/licences.py``.

Reads the metadata of the packages that are installed; ``EXTRAS=dev,all`` has all of them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tl_lightning.errors import DataError
from tl_lightning.utils.files import write_text

__all__ = ["PAGE", "licence_of", "main", "packages", "page"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "licences.md"
NAME = "tl_lightning"
TEXT = """\
# Licences

tl_lightning has the MIT licence and installs these packages, each under its own licence. The table
is generated from their metadata by `make tables` on Linux; on other systems and in later versions,
packages may be added. "Needed by" names the extra that brings a package, or what it is a part of.

Weights and datasets have licences of their own, which often exclude commercial use: read those of
the pages that you download them from.

"""
#: Extras that are not installed by users, and those that only combine others.
LEFT_OUT = ("dev", "docs", "all")
#: Texts of the metadata, and the SPDX identifiers for them.
SHORT = {
    "MIT License": "MIT", "Apache Software License": "Apache-2.0", "BSD License": "BSD",
    "ISC License (ISCL)": "ISC", "Apache License 2.0": "Apache-2.0", "Apache 2.0": "Apache-2.0",
    "Python Software Foundation License": "PSF-2.0", "Apache License, Version 2.0": "Apache-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0", "Apache 2": "Apache-2.0",
    "3-Clause BSD License": "BSD-3-Clause", "BSD 3-Clause": "BSD-3-Clause",
    "BSD-3-Clause License": "BSD-3-Clause", "The MIT License (MIT)": "MIT",
    "Apache License Version 2.0": "Apache-2.0", "MIT license": "MIT",
    "2-clause BSD License": "BSD-2-Clause", "Apache 2.0 License": "Apache-2.0",
}  # fmt: skip


def licence_of(found: Distribution) -> str:
    """Return the licence of an installed package, as its metadata say."""
    data = found.metadata
    if expression := data.get("License-Expression"):
        return str(expression)
    classified = [
        one.rpartition(" :: ")[2]
        for one in data.get_all("Classifier") or []
        if one.startswith("License :: OSI Approved :: ") or one.startswith("License :: Other")
    ]
    if classified:
        return " and ".join(SHORT.get(one, one) for one in classified)
    lines = str(data.get("License") or "").strip().splitlines()
    return SHORT.get(lines[0], lines[0])[:60] if lines else "not stated"


def requirements(found: Distribution, extra: str = "") -> Iterator[Requirement]:
    """Yield what a package requires on this machine, for itself or for one of its extras."""
    for text in found.requires or ():
        one = Requirement(text)
        plain = one.marker is None or one.marker.evaluate({"extra": ""})
        if (extra and not plain and one.marker and one.marker.evaluate({"extra": extra})) or (
            not extra and plain
        ):
            yield one


def packages() -> dict[str, tuple[str, set[str]]]:
    """Return licence and extras of every package that users install, by name.

    Raises:
        DataError: If one of them is not installed.
    """
    root = distribution(NAME)
    extras = [e for e in root.metadata.get_all("Provides-Extra") or [] if e not in LEFT_OUT]
    found: dict[str, tuple[str, set[str]]] = {}
    for extra in ("", *extras):
        waiting = [(one, extra or "itself") for one in requirements(root, extra)]
        while waiting:
            one, by = waiting.pop()
            name = canonicalize_name(one.name)
            if by in found.get(name, ("", set()))[1] or "itself" in found.get(name, ("", set()))[1]:
                continue
            try:
                package = distribution(name)
            except PackageNotFoundError:
                raise DataError(f"{name} is not installed; run make install EXTRAS=all") from None
            found.setdefault(name, (licence_of(package), set()))[1].add(by)
            waiting += [(each, by) for each in requirements(package)]
            waiting += [(each, by) for x in one.extras for each in requirements(package, x)]
    return found


def page() -> str:
    """Return docs/licences.md."""
    rows = ["| package | licence | needed by |", "|---|---|---|"]
    for name, (licence, by) in sorted(packages().items()):
        shown = "tl_lightning" if "itself" in by else ", ".join(f"`{one}`" for one in sorted(by))
        rows.append(f"| {name} | {re.sub(r'[|]', '/', licence)} | {shown} |")
    return TEXT + "\n".join(rows) + "\n"


def main() -> None:
    """Write the page; leave it as it is where an optional package is missing."""
    try:
        write_text(PAGE, page())
    except DataError as error:
        print(f"{PAGE.name} is left as it is: {error}", file=sys.stderr)
        return
    print(f"written: {PAGE}", file=sys.stderr)


if __name__ == "__main__":
    main()
