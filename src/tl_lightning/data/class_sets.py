"""How the classes of a target relate to those of the source: the same, some, or also others."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tl_lightning.data.io.labels import plain_name
from tl_lightning.errors import DataError, nearest
from tl_lightning.utils.text import shorten

__all__ = ["AS_CLASS_SETS", "CLASS_SETS", "UNKNOWN", "ClassSets", "with_unknown"]

#: Values of ``data.target.classes``: the same classes as the source, some of them (partial), all of
#: them and others (open), or some of them and others (universal).
CLASS_SETS = ("same", "subset", "open", "universal")
#: Name of all samples of the target that belong to no class of the source.
UNKNOWN = "unknown"
#: The way out of a target whose classes are not those of the source, for the error about it.
AS_CLASS_SETS = (
    "if the classes really differ, set data.target.classes=subset (some of the source's), open "
    "(also unknown ones) or universal (both), see docs/targets.md"
)


class ClassSets:
    """The setting ``data.target.classes``.

    Args:
        target: The settings of the target.

    Raises:
        DataError: If it has an unknown value, or conflicts with another setting of the target.
    """

    def __init__(self, target: Mapping[str, Any]) -> None:
        self.kind = str(target.get("classes") or "same")
        if self.kind not in CLASS_SETS:
            raise DataError(
                f"data.target.classes={self.kind} is not valid; {nearest(self.kind, CLASS_SETS)}"
            )
        if self.kind != "same" and target.get("labelled_per_class"):
            raise DataError(
                f"data.target.labelled_per_class={target['labelled_per_class']} takes labelled "
                f"samples of every class, but data.target.classes={self.kind}; set "
                "data.target.labelled_per_class=0"
            )

    @property
    def may_miss(self) -> bool:
        """Whether classes of the source may be absent from the target."""
        return self.kind in ("subset", "universal")

    @property
    def may_add(self) -> bool:
        """Whether the target may have samples of no class of the source."""
        return self.kind in ("open", "universal")

    def problem(self, source: Sequence[str], found: Collection[str], where: str) -> str:
        """Return why the classes of a labelled target cannot be used; empty if they can.

        Args:
            source: Classes of the source.
            found: Names of the target's classes.
            where: The target, for the message.
        """
        if not self.may_add:
            return ""
        if UNKNOWN in source:
            return (
                f"the source has a class named {UNKNOWN!r}, which data.target.classes={self.kind} "
                "uses for objects of no class of the source; rename that class"
            )
        extra = [name for name in found if name not in source]
        plain = {plain_name(name): name for name in source}
        alike = [f"{name!r} ({plain[p]!r})" for name in extra if (p := plain_name(name)) in plain]
        if alike:
            return (
                f"data.target.classes={self.kind}: {len(alike)} unknown class(es) of {where} are "
                f"named like a class of the source except for case, spaces or punctuation: "
                f"{shorten(alike)}; rename them to the class that they are, or to another name"
            )
        if len(extra) == len(found):
            return (
                f"data.target.classes={self.kind}: all {len(extra)} classes of {where} are "
                f"unknown, none is a class of the source: {shorten(extra)}; classes of the source: "
                f"{shorten(source)}; rename those that are the same, or set "
                "data.target.labels=none to use the target without labels"
            )
        return ""

    def note(self, source: Sequence[str], found: Collection[str]) -> str:
        """Return what the target's classes are, for the report; empty for the same classes."""
        if self.kind == "same":
            return ""
        missing = [name for name in source if name not in found]
        extra = [name for name in found if name not in source]
        parts = []
        if self.may_miss:
            parts.append(f"{len(source) - len(missing)} of the {len(source)} classes of the source")
        if self.may_add:
            parts.append(
                f"{len(extra)} unknown class(es) ({shorten(extra)}), which are one class "
                f"{UNKNOWN!r} in testing and never used in training"
                if extra
                else "no unknown class"
            )
        return f"data.target.classes={self.kind}: {' and '.join(parts)}"


def with_unknown(
    classes: Sequence[str], labels: Iterable[NDArray[np.int64] | None]
) -> tuple[str, ...]:
    """Return class names of a target, with :data:`UNKNOWN` if any label is the one after the last.

    >>> with_unknown(["cat", "dog"], [None, np.array([0, 2])])
    ('cat', 'dog', 'unknown')
    """
    largest = max((int(one.max()) for one in labels if one is not None and len(one)), default=-1)
    return (*classes, UNKNOWN) if largest == len(classes) else tuple(classes)
