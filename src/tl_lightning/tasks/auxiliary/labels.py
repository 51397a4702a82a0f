"""Labels of auxiliary tasks, read from a data column or derived from the main task's classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.data.domain import Split
from tl_lightning.data.io.tables import read_rows
from tl_lightning.errors import DataError, nearest
from tl_lightning.tasks.auxiliary.base import AuxiliaryTask, LabelInfo
from tl_lightning.utils.text import shorten

__all__ = ["attach_labels", "read_groups"]

PACKAGED = Path(__file__).parent / "groups"
Kind = tuple[type[AuxiliaryTask], Mapping[str, Any]]


def attach_labels(
    data: TransferDataModule,
    kinds: Mapping[str, Kind],
    known: Mapping[str, LabelInfo] | None = None,
) -> dict[str, LabelInfo]:
    """Attach the labels of all auxiliary tasks to the splits and return the label info.

    The label info is determined from the training labels of the domain the model is trained on.
    Splits without any label of a task are left unchanged.

    Args:
        data: Data module after discovery, whose splits get the auxiliary labels.
        kinds: Class and settings of each task by name.
        known: Label info of an earlier run, if any.

    Raises:
        DataError: If a label is not valid for the task, or the training split has no labels.
    """
    label_info: dict[str, LabelInfo] = {}
    for name, (kind, params) in kinds.items():
        where, earlier = f"aux_tasks.{name}", (known or {}).get(name)
        if params.get("groups") is not None:
            label_info[name] = earlier or _by_class(kind, params, where, data.classes)
            continue
        texts = data.aux_labels(str(params["labels"]))
        train = [_text(texts, path) for path in data.found[data.learn_from].train.samples]
        present = [text for text in train if not kind.is_missing(text)]
        if not present and earlier is None:
            raise DataError(
                f"{where}.labels={params['labels']} is empty for all {len(train)} training "
                "samples; fill in the column, use another column, or remove the task"
            )
        label_info[name] = earlier or kind.label_info_of(present, params, where)
        for key, domain in list(data.found.items()):
            splits: dict[str, Any] = {
                split: _with_labels(part, name, kind, label_info[name], texts, where)
                for split, part in domain.splits().items()
            }
            data.found[key] = replace(domain, **splits)
    return label_info


def _text(texts: Mapping[Path, str], path: Any) -> str:
    return texts.get(Path(path), "").strip()


def _with_labels(
    split: Split,
    name: str,
    kind: type[AuxiliaryTask],
    label_info: LabelInfo,
    texts: Mapping[Path, str],
    where: str,
) -> Split:
    """Return the split with a task's labels; unchanged if all of them are missing."""
    split_texts = [_text(texts, path) for path in split.samples]
    if all(map(kind.is_missing, split_texts)):
        return split
    values = _encode(kind, label_info, split_texts, [str(name) for name in split.names], where)
    return replace(split, aux_labels={**(split.aux_labels or {}), name: values})


def _encode(
    kind: type[AuxiliaryTask],
    label_info: LabelInfo,
    texts: Sequence[str],
    names: Sequence[str],
    where: str,
) -> NDArray[Any]:
    values, invalid = [], []
    for text, name in zip(texts, names, strict=True):
        try:
            missing = kind.is_missing(text)
            values.append(kind.missing(label_info) if missing else kind.encode(text, label_info))
        except ValueError as error:
            invalid.append(f"{name}: {error}")
    if invalid:
        raise DataError(
            f"{where} has {len(invalid)} invalid label(s): {shorten(invalid, 3, '; ')}; "
            "fix them, or leave the cells of missing labels empty"
        )
    return kind.array(values)


def _by_class(
    kind: type[AuxiliaryTask], params: Mapping[str, Any], where: str, classes: Sequence[str]
) -> LabelInfo:
    """Return the label info of a task whose labels are derived from the main task's classes."""
    table = read_groups(str(params["groups"]), f"{where}.groups")
    absent = [name for name in classes if name not in table]
    if absent:
        raise DataError(
            f"{where}.groups={params['groups']} has no row for {len(absent)} of {len(classes)} "
            f"classes, starting with {absent[0]!r} ({nearest(absent[0], list(table)[:200])}); add "
            "the missing rows (with an empty label if unknown)"
        )
    texts = [table[name] for name in classes]
    present = [text for text in texts if not kind.is_missing(text)]
    if not present:
        raise DataError(
            f"{where}.groups={params['groups']} has no label for any class; fill in the table"
        )
    label_info = kind.label_info_of(present, params, where)
    values = _encode(kind, label_info, texts, classes, where)
    return {**label_info, "by_class": values.tolist()}


def read_groups(place: str, setting: str) -> dict[str, str]:
    """Read a mapping from class to label from a table with the columns ``class`` and ``label``.

    Args:
        place: Path of the table, or the name of a packaged one (``dogs_akc``).
        setting: Config key for error messages.

    Raises:
        DataError: If the table does not exist or is not valid.

    >>> read_groups("dogs_akc", "aux_tasks.coarse.groups")["n02099601-golden_retriever"]
    'sporting'
    """
    path = Path(place).expanduser()
    if not path.is_file():
        path = PACKAGED / f"{place}.csv"
    if not path.is_file():
        packaged = ", ".join(sorted(file.stem for file in PACKAGED.glob("*.csv")))
        raise DataError(
            f"{setting}={place} not found; set {setting} to the path of a table with the columns "
            f"class and label, or to the name of a packaged table ({packaged})"
        )
    header, rows = read_rows(path, None, ["class", "label"])
    for column in ("class", "label"):
        if column not in header:
            raise DataError(
                f"{path} has no column {column!r} (found: {', '.join(header)}); the header must "
                "have the columns class and label"
            )
    table: dict[str, str] = {}
    for row in rows:
        name, label = row.cells["class"].strip(), row.cells["label"].strip()
        if table.setdefault(name, label) != label:
            raise DataError(
                f"{row.place} of {path} maps {name!r} to {label!r}, but an earlier row maps it to "
                f"{table[name]!r}; remove one of the rows"
            )
    return table
