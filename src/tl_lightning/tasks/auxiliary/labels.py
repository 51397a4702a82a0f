"""Where labels of further tasks come from: a column of the data, or the main labels' classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from tl_lightning.data.domain import Domain, Split
from tl_lightning.data.io.tables import read_rows
from tl_lightning.errors import DataError, nearest
from tl_lightning.tasks.auxiliary.base import Facts, FurtherTask

__all__ = ["Labelled", "attach_labels", "read_groups"]

PACKAGED = Path(__file__).parent / "groups"
SHOWN = 3
Kind = tuple[type[FurtherTask], Mapping[str, Any]]


class Labelled(Protocol):
    """A data module that has found its pictures; one with columns has ``further_labels`` too."""

    found: dict[str, Domain]
    learn_from: str

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names of the main task."""
        ...


def attach_labels(
    data: Labelled, kinds: Mapping[str, Kind], known: Mapping[str, Facts] | None = None
) -> dict[str, Facts]:
    """Read the labels of every further task and put them into the splits; return their facts.

    Only what the model learns from decides which labels there are. Labels of a split that has none
    at all are left out of it.

    Args:
        data: Its splits are replaced by splits with labels.
        kinds: Class and settings of every task, by name.
        known: Facts of an earlier run, where there was one.

    Raises:
        DataError: If a label is none of the task's kind, or there is none to learn from.
    """
    facts: dict[str, Facts] = {}
    for name, (kind, knobs) in kinds.items():
        where, before = f"tasks.{name}", (known or {}).get(name)
        if knobs.get("groups") is not None:
            facts[name] = before or _by_class(kind, knobs, where, data.classes)
            continue
        columns: Callable[[str], Mapping[Path, str]] = data.further_labels  # type: ignore[attr-defined]
        texts = columns(str(knobs["labels"]))
        train = [_text(texts, path) for path in data.found[data.learn_from].train.pictures]
        present = [text for text in train if not kind.is_missing(text)]
        if not present and before is None:
            raise DataError(
                f"{where}.labels={knobs['labels']} says nothing of any of the {len(train)} "
                "training pictures; fill in the column, name another one, or leave the task out"
            )
        facts[name] = before or kind.facts_of(present, knobs, where)
        for role, domain in data.found.items():
            changed: dict[str, Any] = {
                split: _attached(part, name, kind, facts[name], texts, where)
                for split, part in domain.splits().items()
            }
            data.found[role] = replace(domain, **changed)
    return facts


def _text(texts: Mapping[Path, str], path: Any) -> str:
    return texts.get(Path(path), "").strip()


def _attached(
    split: Split,
    name: str,
    kind: type[FurtherTask],
    facts: Facts,
    texts: Mapping[Path, str],
    where: str,
) -> Split:
    """Return the split with a task's labels; as it is where nothing is known."""
    own = [_text(texts, path) for path in split.pictures]
    if all(map(kind.is_missing, own)):
        return split
    values = _encoded(kind, facts, own, [str(place) for place in split.names], where)
    return replace(split, others={**(split.others or {}), name: values})


def _encoded(
    kind: type[FurtherTask],
    facts: Facts,
    texts: Sequence[str],
    places: Sequence[str],
    where: str,
) -> NDArray[Any]:
    values, wrong = [], []
    for text, place in zip(texts, places, strict=True):
        try:
            missing = kind.is_missing(text)
            values.append(kind.missing(facts) if missing else kind.encode(text, facts))
        except ValueError as error:
            wrong.append(f"{place}: {error}")
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise DataError(
            f"{where} cannot read {len(wrong)} of its labels: {'; '.join(wrong[:SHOWN])}{more}; "
            "mend them, or leave the cells empty for labels that are missing"
        )
    return kind.array(values)


def _by_class(
    kind: type[FurtherTask], knobs: Mapping[str, Any], where: str, classes: Sequence[str]
) -> Facts:
    """Return the facts of a task whose labels follow from the main task's."""
    table = read_groups(str(knobs["groups"]), f"{where}.groups")
    lacking = [name for name in classes if name not in table]
    if lacking:
        raise DataError(
            f"{where}.groups={knobs['groups']} has no line for {len(lacking)} of {len(classes)} "
            f"classes, the first is {lacking[0]!r} ({nearest(lacking[0], list(table)[:200])}); add "
            "them (with an empty label where there is none)"
        )
    texts = [table[name] for name in classes]
    present = [text for text in texts if not kind.is_missing(text)]
    if not present:
        raise DataError(
            f"{where}.groups={knobs['groups']} gives none of the classes a label; fill it in"
        )
    facts = kind.facts_of(present, knobs, where)
    values = _encoded(kind, facts, texts, classes, where)
    return {**facts, "by_class": values.tolist()}


def read_groups(place: str, setting: str) -> dict[str, str]:
    """Return class to label from a table with the columns ``class`` and ``label``.

    Args:
        place: A file, or the name of one that comes with the package (``dogs_akc``).
        setting: What set it, for errors.

    Raises:
        DataError: If it is not there or no such table.

    >>> read_groups("dogs_akc", "tasks.coarse.groups")["n02099601-golden_retriever"]
    'sporting'
    """
    path = Path(place).expanduser()
    if not path.is_file():
        path = PACKAGED / f"{place}.csv"
    if not path.is_file():
        packaged = ", ".join(sorted(file.stem for file in PACKAGED.glob("*.csv")))
        raise DataError(
            f"{setting}={place} is no file; type the path of a table with the columns class and "
            f"label, or the name of one that comes with the package ({packaged})"
        )
    header, rows = read_rows(path, None, ["class", "label"])
    for column in ("class", "label"):
        if column not in header:
            raise DataError(
                f"{path} has no column {column!r} (it has {', '.join(header)}); its first line "
                "must name class and label"
            )
    found: dict[str, str] = {}
    for row in rows:
        name, label = row.cells["class"].strip(), row.cells["label"].strip()
        if found.setdefault(name, label) != label:
            raise DataError(
                f"{row.place} of {path} has {name!r} as {label!r}, but it was {found[name]!r} "
                "before; remove one of the lines"
            )
    return found
