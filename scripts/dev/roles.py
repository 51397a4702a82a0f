"""Extension of griffe for docs/api.md: roles of Sphinx in docstrings become code.

Editors and ``help()`` understand ``:func:`tl_lightning.fit```; Markdown would print the role.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

__all__ = ["Roles", "without_roles"]

_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data):`[~.]?([^`]+)`")


def without_roles(text: str) -> str:
    """Return a docstring with its roles as code.

    >>> without_roles("See :func:`tl_lightning.fit` and :class:`.Run`.")
    'See `tl_lightning.fit` and `Run`.'
    """
    return _ROLE.sub(r"`\1`", text)


class Roles(griffe.Extension):
    """Replaces roles in every docstring that is loaded."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change the docstring of an object."""
        if obj.docstring is not None:
            obj.docstring.value = without_roles(obj.docstring.value)
