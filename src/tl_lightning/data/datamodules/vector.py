"""Vectors from files: tables of measurements, bags of words, another network's features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from tl_lightning.data.datamodules.base import TransferData
from tl_lightning.data.domain import Domain, Split
from tl_lightning.data.io.vectors import Table, read_vectors
from tl_lightning.data.layout import Layout
from tl_lightning.errors import DataError, nearest
from tl_lightning.types import Spec, VectorSpec

__all__ = ["Rows", "VectorData"]

KEYS = ("train", "test")
#: Most that all vectors may take in memory, in bytes, once they are not sparse any more.
LIMIT = 4 << 30


class Rows:
    """Vectors in memory as a loader of stored features takes them.

    Args:
        values: ``(N, F)``.
    """

    views = 1
    flat = True

    def __init__(self, values: NDArray[np.float32]) -> None:
        self.values = torch.from_numpy(np.ascontiguousarray(values))
        self.number = len(values)

    def rows(self, rows: Tensor) -> Tensor:
        """Return the rows of these numbers ``(B,)``."""
        return self.values.index_select(0, rows)


class VectorData(TransferData):
    """A source of labelled vectors and, unless there is none, a target's.

    Without a file for testing a hash of the rows' numbers holds out ``test_fraction`` of each
    class. A target's training file needs no labels; its test file does. Which features are kept
    and how they are scaled goes with the model's checkpoint: whatever it is tested on passes the
    same.

    Args:
        source: ``{train, test}``: files, see :func:`read_vectors`; ``test`` may be None.
        target: Likewise, or None for no target; a ``train`` of None is no target either.
        val_fraction: Share of each class's training vectors held out for validation.
        test_fraction: Share of each class held out for testing, where there is no such file.
        max_features: Keep so many features: those that are not zero in the most vectors of both
            domains' training files (with what is held out of them); None keeps all.
        scale: ``none``; ``standard`` subtracts the source's training mean and divides by its
            deviation, feature by feature; ``l2`` divides every vector by its length.
        kwargs: As in :class:`TransferData`.
    """

    gives: ClassVar[str] = "vectors"
    storable: ClassVar[bool] = False
    target_optional: ClassVar[bool] = True
    target_key: ClassVar[str] = "train=<file>"

    def __init__(
        self,
        *,
        source: Mapping[str, Any],
        target: Mapping[str, Any] | None,
        val_fraction: float,
        test_fraction: float,
        max_features: int | None,
        scale: Literal["none", "standard", "l2"],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for role, node in (("source", source), ("target", target or {})):
            for key in node:
                if key not in KEYS:
                    raise DataError(f"data.{role} has no key {key!r}; {nearest(str(key), KEYS)}")
        if max_features is not None and max_features < 1:
            raise DataError(
                f"data.max_features={max_features} keeps nothing; type data.max_features=5000"
            )
        self.source = source
        self.target = None if self.no_target(target) else target
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.max_features = max_features
        self.scale = scale

    @classmethod
    def no_target(cls, target: Mapping[str, Any] | None) -> bool:
        """Return whether these settings of ``target`` mean that there is none."""
        return target is None or target.get("train") is None

    @property
    def width(self) -> int:
        """Length of the vectors; known once they have been read."""
        return int(self.found["source"].train.pictures.shape[1])  # type: ignore[union-attr]

    def domains(self) -> Mapping[str, Domain]:
        """Read all files; labels of the target's training file only say what is held out."""
        if self.source.get("train") is None:
            raise DataError(
                "data.source.train=null: vectors need a file; type data.source.train=/my/books.npz"
            )
        nodes = {"source": self.source, **({"target": self.target} if self.target else {})}
        files = {
            f"data.{role}.{key}": Path(node[key]).expanduser()
            for role, node in nodes.items()
            for key in KEYS
            if node.get(key) is not None
        }
        _refuse_twice(files)
        tables = {key.removeprefix("data."): read_vectors(file, key) for key, file in files.items()}
        tables = self._selected(self._alike(tables))
        source = tables["source.train"]
        if source.y is None:
            raise DataError(
                f"data.source.train={self.source['train']} holds no labels; a source needs them"
            )
        classes = tuple(sorted(set(source.y.tolist()), key=_order))
        if len(classes) < 2:
            raise DataError(
                f"data.source.train={self.source['train']} has only the class {classes[0]!r}; a "
                "classifier needs at least two"
            )
        found = {role: self._domain(role, node, tables, classes) for role, node in nodes.items()}
        return self._scaled(found)

    def _domain(
        self,
        role: str,
        node: Mapping[str, Any],
        tables: Mapping[str, Table],
        classes: tuple[str, ...],
    ) -> Domain:
        name = Path(node["train"]).name.split(".")[0]
        train = _split(tables[f"{role}.train"], classes, f"data.{role}.train", f"{name}/train")
        test = None
        if f"{role}.test" in tables:
            test = _split(tables[f"{role}.test"], classes, f"data.{role}.test", f"{name}/test")
            if test.labels is None:
                raise DataError(
                    f"data.{role}.test={node['test']} holds no labels; testing needs them"
                )
        if train.labels is None and test is None:
            raise DataError(
                f"data.{role}.train={node['train']} holds no labels, so that nothing can be held "
                f"out for testing; type data.{role}.test=<a file with labels>"
            )
        known = train.labels is not None
        # An unlabelled file is divided as if it were of one class.
        train = train if known else replace(train, labels=np.zeros(len(train), dtype=np.int64))
        layout = Layout(classes, train, None, test).with_test(self.test_fraction)
        layout = layout.with_val(self.val_fraction)
        assert layout.val is not None
        assert layout.test is not None
        parts = (layout.train, layout.val)
        train, val = parts if known else (part.without_labels() for part in parts)
        return Domain(name, classes, train, val, layout.test, layout.note)

    def _alike(self, tables: dict[str, Table]) -> dict[str, Table]:
        """Return tables of one width: svmlight files do not say how many zeros end their vectors.

        Nor at which number they begin to count: where all begin at 1, column 0 goes.
        """
        known, widths = self.learned, {key: table.x.shape[1] for key, table in tables.items()}
        every = all(sparse.issparse(table.x) for table in tables.values())
        width = max([*widths.values(), known.get("width", 0) if every else 0])
        for key, table in tables.items():
            if widths[key] < width and not sparse.issparse(table.x):
                longest = max(widths, key=lambda k: widths[k])
                raise DataError(
                    f"data.{key} has vectors of {widths[key]} features and data.{longest} of "
                    f"{width}; both domains need the same ones"
                )
            if sparse.issparse(table.x):
                table.x.resize(table.x.shape[0], width)
        first = known.get("first", not any(table.x[:, [0]].nnz for table in tables.values())
                          if every else False)  # fmt: skip
        self.learned = {"columns": None, **known, "width": width, "first": bool(first)}
        if every and first:
            return {key: Table(table.x[:, 1:], table.y) for key, table in tables.items()}
        return tables

    def _selected(self, tables: dict[str, Table]) -> dict[str, Table]:
        """Keep the most frequent features, and give up sparseness."""
        width = next(iter(tables.values())).x.shape[1]
        known = "scale" in self.learned
        if not known and self.max_features is not None and self.max_features < width:
            counts = sum(
                np.asarray((table.x != 0).sum(axis=0)).reshape(-1)
                for key, table in tables.items()
                if key.endswith(".train")
            )
            # Of equally frequent ones the first; in the files' order.
            keep = np.sort(np.argsort(-counts, kind="stable")[: self.max_features])
            self.learned["columns"] = keep.tolist()
        if (columns := self.learned["columns"]) is not None:
            if columns[-1] >= width:
                raise DataError(
                    f"the vectors have {width} features, but the model was made for some of more "
                    f"than {columns[-1]}; use vectors of that kind"
                )
            tables = {key: Table(table.x[:, columns], table.y) for key, table in tables.items()}
            width = len(columns)
        needed = 4 * width * sum(table.x.shape[0] for table in tables.values())
        if needed > LIMIT:
            raise DataError(
                f"the vectors have {width} features and would take {needed / 1e9:.0f} GB; type "
                "data.max_features=5000"
            )
        return {
            key: Table(table.x.toarray() if sparse.issparse(table.x) else table.x, table.y)
            for key, table in tables.items()
        }

    def _scaled(self, found: dict[str, Domain]) -> dict[str, Domain]:
        scale = self.learned.setdefault("scale", self.scale)
        if scale == "none":
            return found
        if scale == "standard" and "mean" not in self.learned:
            own = np.asarray(found["source"].train.pictures)
            for name in ("mean", "std"):
                self.learned[name] = getattr(own, name)(axis=0).tolist()
        mean, std = (
            np.array(self.learned.get(name, ()), dtype=np.float32) for name in ("mean", "std")
        )

        def change(split: Split) -> Split:
            x: Any = np.asarray(split.pictures)
            if scale == "l2":
                length = np.linalg.norm(x, axis=1, keepdims=True)
                x = x / np.where(length > 0, length, 1)
            else:
                x = (x - mean) / np.where(std > 0, std, 1)
            return replace(split, pictures=x.astype(np.float32))

        return {
            role: replace(
                domain,
                train=change(domain.train), val=change(domain.val), test=change(domain.test),
            )
            for role, domain in found.items()
        }  # fmt: skip

    def attach(
        self,
        spec: Spec,
        train_on: tuple[str, ...],
        val_labels: tuple[str, ...],
        strong: bool = False,
    ) -> None:
        """Show the vectors as they are; see :meth:`TransferData.attach`."""
        assert isinstance(spec, VectorSpec)
        if spec.width != self.width:
            raise DataError(
                f"the vectors have {self.width} features, but the model was made for "
                f"{spec.width} (backbone.in_features); use vectors of that kind"
            )
        super().attach(spec, train_on, val_labels, strong)
        rows: Any = {
            f"{role}/{name}": Rows(np.asarray(split.pictures))
            for role in self.roles
            for name, split in self.found[role].splits().items()
        }
        self.features = rows


def _refuse_twice(files: Mapping[str, Path]) -> None:
    seen: dict[Path, str] = {}
    for key, file in files.items():
        before = seen.setdefault(file.resolve(), key)
        if before != key:
            raise DataError(
                f"{before} and {key} are the same file, {file}; type another one, or {key}=null"
            )


def _split(table: Table, classes: tuple[str, ...], setting: str, name: str) -> Split:
    names = [f"{name}/{row:07d}" for row in range(table.x.shape[0])]
    if table.y is None:
        return Split(table.x, None, names)
    unknown = sorted(set(table.y.tolist()) - set(classes))
    if unknown:
        raise DataError(
            f"{setting} holds the class {unknown[0]!r}, which data.source.train does not; its "
            f"classes are {', '.join(classes)}"
        )
    place = {label: number for number, label in enumerate(classes)}
    labels = np.array([place[label] for label in table.y.tolist()], dtype=np.int64)
    return Split(table.x, labels, names)


def _order(name: str) -> tuple[int, float, str]:
    """Order class names: numbers as such and first.

    >>> sorted(["10", "2", "b", "-1"], key=_order)
    ['-1', '2', '10', 'b']
    """
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name
