"""Vectors from files: tabular data, bags of words, or features of another network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from tl_lightning.config.hints import at_least
from tl_lightning.data.class_sets import AS_CLASS_SETS, ClassSets, with_unknown
from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.data.datamodules.source_target import check_labels, only_keys
from tl_lightning.data.domain import Domain, Split
from tl_lightning.data.encoding import LABELLED
from tl_lightning.data.io.vector_labels import label_names, with_cells
from tl_lightning.data.io.vectors import Table, read_vectors
from tl_lightning.data.layout import Layout
from tl_lightning.data.needs import ModelNeeds
from tl_lightning.data.target import no_target
from tl_lightning.data.transforms.vectors import dense, from_first, scaled, selected
from tl_lightning.errors import DataError
from tl_lightning.types import Spec, SplitKey, VectorSpec

__all__ = ["Rows", "VectorDataModule"]

KEYS = ("train", "test")
#: Maximum size of all vectors in memory as dense arrays, in bytes.
LIMIT = 4 << 30


class Rows:
    """Vectors in memory with the interface of cached features.

    Args:
        values: ``(N, F)``.
    """

    views = 1
    flat = True

    def __init__(self, values: NDArray[np.float32]) -> None:
        self.values = torch.from_numpy(np.ascontiguousarray(values))
        self.number = len(values)

    def rows(self, rows: Tensor) -> Tensor:
        """Return the rows with these indices ``(B,)``."""
        return self.values.index_select(0, rows)


class VectorDataModule(TransferDataModule):
    """Labelled vectors as the source and, optionally, vectors as the target.

    Without a test file, ``test_fraction`` of each class is held out by a hash of the row numbers.
    The training file of the target needs no labels; without a test file, whose vectors need them,
    all of its vectors are then predicted. The selected features and
    their scaling are saved in checkpoints and applied to all data that the model is tested on.

    Args:
        source: ``{train, test}``: files, see :func:`read_vectors`; ``test`` may be None.
        target: The same for the target, and ``labels``: ``none`` ignores those of the training
            file; ``classes``: one of :data:`.CLASS_SETS`. None or a ``train`` of None means no
            target.
        val_fraction: Fraction of each class to hold out for validation.
        test_fraction: Fraction of each class to hold out for testing without a test file.
        max_features: Number of features to keep: those that are non-zero most often in the
            training files of both domains (including held-out rows); None keeps all.
        scale: ``none``; ``standard`` subtracts the mean of the source's training split from each
            feature and divides by its standard deviation; ``l2`` divides each vector by its norm.
        kwargs: See :class:`TransferDataModule`.
    """

    gives: ClassVar[str] = "vectors"
    spec_type: ClassVar[type[Spec]] = VectorSpec
    storable: ClassVar[bool] = False
    has_cells: ClassVar[bool] = True
    target_optional: ClassVar[bool] = True
    target_keys: ClassVar[frozenset[str]] = frozenset({*KEYS, "labels", "classes"})
    target_requires: ClassVar[str] = "train"
    target_place: ClassVar[str] = "train=<file>"

    def __init__(
        self,
        *,
        source: Mapping[str, Any],
        target: Mapping[str, Any] | None,
        val_fraction: float,
        test_fraction: float,
        max_features: Annotated[int, at_least(1)] | None,
        scale: Literal["none", "standard", "l2"],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        only_keys("data.source", source, set(KEYS))
        only_keys("data.target", target or {}, set(self.target_keys))
        check_labels(target or {})
        self.sets = ClassSets(target or {})
        self.source = source
        self.target = None if no_target(type(self), target) else target
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.max_features = max_features
        self.scale = scale
        #: Names of the columns of labels that are not classes.
        self.label_names: list[str] = []

    def label_source(self) -> tuple[list[str], str]:
        """Return the names of the columns with the labels, and what to call them in errors."""
        return self.label_names, f"the labels of data.source.train={self.source['train']}"

    @property
    def width(self) -> int:
        """Number of features; available after :meth:`discover`."""
        return int(self.found["source"].train.samples.shape[1])  # type: ignore[union-attr]

    def domains(self) -> Mapping[str, Domain]:
        """Read all files; training labels of the target are only used to stratify the splits."""
        if self.source.get("train") is None:
            raise DataError(
                "data=vectors needs a file, but data.source.train=null; set "
                "data.source.train=/my/vectors.npz"
            )
        nodes = {"source": self.source, **({"target": self.target} if self.target else {})}
        files = {
            f"data.{domain}.{key}": Path(node[key]).expanduser()
            for domain, node in nodes.items()
            for key in KEYS
            if node.get(key) is not None
        }
        _refuse_repeated(files)
        tables = {
            key.removeprefix("data."): read_vectors(file, key, not self.of_cells)
            for key, file in files.items()
        }
        if (self.target or {}).get("labels") == "none":
            tables["target.train"] = Table(tables["target.train"].x, None)
        tables = self._selected(self._aligned(tables))
        source = tables["source.train"]
        if source.y is None:
            raise DataError(
                f"data.source.train={self.source['train']} has no labels; a source needs "
                "them: add labels, or set another data.source.train"
            )
        classes = (LABELLED,)
        if self.encoding is not None and self.of_cells:
            tables = with_cells(tables, files, self.encoding)
            self.label_names = label_names(source.y)
        else:
            classes = tuple(sorted(set(source.y.tolist()), key=_order))
        if len(classes) < 2 and not self.of_cells:
            raise DataError(
                f"data.source.train={self.source['train']} has only the class {classes[0]!r}; a "
                "classifier needs at least two"
            )
        found = {
            domain: self._domain(domain, node, tables, classes) for domain, node in nodes.items()
        }
        return self._scaled(found)

    def _domain(
        self,
        domain: str,
        node: Mapping[str, Any],
        tables: Mapping[str, Table],
        classes: tuple[str, ...],
    ) -> Domain:
        name = Path(node["train"]).name.split(".")[0]
        sets = self.sets if domain == "target" else None
        train, test = (
            _split(table, classes, f"data.{domain}.{key}", f"{name}/{key}", sets)
            if (table := tables.get(f"{domain}.{key}"))
            else None
            for key in KEYS
        )
        assert train is not None
        if test is not None and test.labels is None:
            raise DataError(
                f"data.{domain}.test={node['test']} has no labels; testing needs them: "
                f"add labels, or set another data.{domain}.test"
            )
        known = classes
        classes = with_unknown(known, [part.labels for part in (train, test) if part])
        layout = Layout(classes, train, None, test)
        if domain in self.only_tested:
            layout = layout.only_tested()
        else:
            layout = layout.with_test(self.test_fraction).with_val(self.val_fraction)
        assert layout.val is not None
        assert layout.test is not None
        note = layout.note
        if train.labels is None:
            note = (
                f"data.{domain}.train={node['train']}: {len(train):,} vectors without labels; "
                f"{len(layout.train):,} for training, {len(layout.val):,} for validation"
            )
            note += "" if test else ", and all are predicted, without accuracy"
        if sets is not None and train.labels is not None and not self.of_cells:
            found = sorted(set(tables[f"{domain}.train"].y.tolist()))  # type: ignore[union-attr]
            note = "; ".join(part for part in (sets.note(known, found), note) if part)
        return Domain(name, classes, layout.train, layout.val, layout.test, note)

    def _aligned(self, tables: dict[str, Table]) -> dict[str, Table]:
        """Return tables of equal width with zero-based columns.

        svmlight files give neither the number of features nor the index of the first one; if no
        file uses column 0, it is dropped.
        """
        known, widths = self.input_state, {key: table.x.shape[1] for key, table in tables.items()}
        every = all(sparse.issparse(table.x) for table in tables.values())
        width = max([*widths.values(), known.get("width", 0) if every else 0])
        for key, table in tables.items():
            if widths[key] < width and not sparse.issparse(table.x):
                longest = max(widths, key=lambda k: widths[k])
                raise DataError(
                    f"data.{key} has {widths[key]} features, but data.{longest} has {width}; use "
                    "files with the same features"
                )
            if sparse.issparse(table.x):
                table.x.resize(table.x.shape[0], width)
        first = known.get("first", not any(table.x[:, [0]].nnz for table in tables.values())
                          if every else False)  # fmt: skip
        self.input_state = {"columns": None, **known, "width": width, "first": bool(first)}
        if not every:
            return tables
        return {key: Table(from_first(t.x, self.input_state), t.y) for key, t in tables.items()}

    def _selected(self, tables: dict[str, Table]) -> dict[str, Table]:
        """Keep the most frequent features and convert the tables to dense arrays."""
        width = next(iter(tables.values())).x.shape[1]
        known = "scale" in self.input_state
        if not known and self.max_features is not None and self.max_features < width:
            counts = sum(
                np.asarray((table.x != 0).sum(axis=0)).reshape(-1)
                for key, table in tables.items()
                if key.endswith(".train") and key.split(".")[0] not in self.only_tested
            )
            # Ties go to the first feature; the order of the columns is kept.
            keep = np.sort(np.argsort(-counts, kind="stable")[: self.max_features])
            self.input_state["columns"] = keep.tolist()
        if (columns := self.input_state["columns"]) is not None:
            if columns[-1] >= width:
                raise DataError(
                    f"the vectors have {width} features, but the model uses feature {columns[-1]}; "
                    "use vectors with the features that the model was trained on"
                )
            tables = {key: Table(selected(t.x, self.input_state), t.y) for key, t in tables.items()}
            width = len(columns)
        needed = 4 * width * sum(table.x.shape[0] for table in tables.values())
        if needed > LIMIT:
            raise DataError(
                f"the vectors have {width} features and would take {needed / 1e9:.0f} GB; "
                "set data.max_features=5000"
            )
        return {key: Table(dense(table.x), table.y) for key, table in tables.items()}

    def _scaled(self, found: dict[str, Domain]) -> dict[str, Domain]:
        scale = self.input_state.setdefault("scale", self.scale)
        if scale == "none":
            return found
        if scale == "standard" and "mean" not in self.input_state:
            own = np.asarray(found["source"].train.samples)
            for name in ("mean", "std"):
                self.input_state[name] = getattr(own, name)(axis=0).tolist()

        def change(split: Split) -> Split:
            return replace(split, samples=scaled(np.asarray(split.samples), self.input_state))

        return {
            name: replace(
                domain,
                train=change(domain.train), val=change(domain.val), test=change(domain.test),
            )
            for name, domain in found.items()
        }  # fmt: skip

    def default_spec(self) -> VectorSpec:
        """Return the input specification for a model that does not state any."""
        return VectorSpec(self.width)

    def prepare(self, needs: ModelNeeds | None = None, repeat_epoch: bool = False) -> None:
        """Provide the vectors as features; see :meth:`TransferDataModule.prepare`."""
        super().prepare(needs, repeat_epoch)
        spec = self.prepared.input_spec
        assert isinstance(spec, VectorSpec)
        if spec.width != self.width:
            raise DataError(
                f"the vectors have {self.width} features, but the model has "
                f"backbone.in_features={spec.width}; use vectors with {spec.width} features"
            )
        rows: Any = {
            SplitKey(domain, name): Rows(np.asarray(split.samples))
            for domain in self.domain_names
            for name, split in self.found[domain].splits().items()
        }
        self.features = rows


def _refuse_repeated(files: Mapping[str, Path]) -> None:
    seen: dict[Path, str] = {}
    for key, file in files.items():
        before = seen.setdefault(file.resolve(), key)
        if before != key:
            raise DataError(
                f"{before} and {key} are the same file: {file}; set {key} to another file, or "
                f"{key}=null"
            )


def _split(
    table: Table, classes: tuple[str, ...], setting: str, name: str, sets: ClassSets | None
) -> Split:
    names = [f"{name}/{row:07d}" for row in range(table.x.shape[0])]
    if table.y is None:
        return Split(table.x, None, names)
    if table.y.ndim > 1:
        return Split(table.x, np.zeros(len(names), np.int64), names, cells=table.y)
    found = sorted(set(table.y.tolist()))
    unknown = [label for label in found if label not in classes]
    if sets is not None and (text := sets.problem(classes, found, setting)):
        raise DataError(text)
    if unknown and not (sets is not None and sets.may_add):
        raise DataError(
            f"{setting} contains the class {unknown[0]!r}, which is not in data.source.train; "
            f"valid classes: {', '.join(classes)}" + (f"; {AS_CLASS_SETS}" if sets else "")
        )
    index = {label: number for number, label in enumerate(classes)}
    labels = np.array([index.get(label, len(classes)) for label in table.y.tolist()], np.int64)
    return Split(table.x, labels, names)


def _order(name: str) -> tuple[int, float, str]:
    """Sort key of class names: numbers first, by value.

    >>> sorted(["10", "2", "b", "-1"], key=_order)
    ['-1', '2', '10', 'b']
    """
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name
