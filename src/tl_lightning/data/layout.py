"""Classes and splits of a folder, with hash-based splits where the folder defines none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tl_lightning.data.class_sets import UNKNOWN, ClassSets
from tl_lightning.data.domain import Split, concatenated
from tl_lightning.data.io.folders import (
    OnProblem,
    class_folders,
    has_splits,
    match_classes,
    raise_problem,
    scan_classes,
    split_folders,
)
from tl_lightning.data.io.labels import composed_form
from tl_lightning.data.named_domains import OTHERS
from tl_lightning.data.splits import halves_by_hash, split_by_hash
from tl_lightning.errors import DataError, nearest
from tl_lightning.utils.text import shorten

__all__ = ["Layout", "listed_layout", "pooled", "read_layout", "split_of"]


@dataclass(frozen=True)
class Layout:
    """Classes and splits of one dataset; missing splits are chosen by a hash of ``class/file``.

    Attributes:
        classes: Class names, indexed by the labels.
        train, val, test: The splits; None where the dataset defines none.
        note: Note on the splits to show in the report.
        domains: Names of the domains that were merged, indexed by ``Split.domains``.
    """

    classes: tuple[str, ...]
    train: Split
    val: Split | None = None
    test: Split | None = None
    note: str = ""
    domains: tuple[str, ...] = ()

    def paths(self) -> list[Path]:
        """Return the files of all splits; splits held in memory have none."""
        splits = [split for split in (self.train, self.val, self.test) if split is not None]
        return [
            Path(image)
            for split in splits
            if not isinstance(split.samples, np.ndarray)
            for image in split.samples
        ]

    def with_test(
        self,
        fraction: float,
        on_problem: OnProblem = raise_problem,
        choice: Literal["auto", "val", "hold_out"] = "hold_out",
    ) -> Layout:
        """Return the layout with a test split, see ``test_split`` of :class:`.SourceTarget`.

        Without labels there is nothing to measure, and all samples are predicted.

        Args:
            fraction: Fraction of every class to hold out of the training split.
            on_problem: Called for each class with too few samples.
            choice: ``auto``: the dataset's test split, or else its validation split, or else a
                fraction of the training split; ``val``: its validation split in any case;
                ``hold_out``: its test split, or else a fraction of the training split.

        Raises:
            DataError: If ``val`` has no validation split to test on.
        """
        if self.train.labels is None:
            return self if self.test is not None else replace(self, test=self.whole())
        if choice == "val" and self.val is None:
            raise DataError(
                "data.test_split=val tests on the validation split, but the dataset has none; add "
                "val/<class>/ next to train/, or set data.test_split=auto"
            )
        if self.val is not None and (choice == "val" or (choice == "auto" and self.test is None)):
            unused = "" if self.test is None else f", and the {len(self.test):,} in test are unused"
            note = (
                f"data.test_split={choice}: the {len(self.val):,} samples of the validation split "
                f"are also the test split, all {len(self.train):,} training samples are trained "
                f"on{unused}; a model selected by its validation accuracy is tested on the same "
                "samples"
            )
            return replace(self, test=self.val, note=_joined(self.note, note))
        if self.test is not None:
            return self
        train, test = _divide(self.train, fraction, "test", on_problem)
        note = (
            f"no official split was found: {fraction:.0%} of every class, chosen by a hash of "
            "the file names, is held out for testing"
        )
        return replace(self, train=train, test=test, note=_joined(self.note, note))

    def only_tested(self, choice: Literal["auto", "val", "hold_out"] = "auto") -> Layout:
        """Return the layout for testing a trained model, without samples in the other splits.

        Its test split is tested, or else its validation split (first with ``choice=val``), or else
        everything.
        """
        order = [self.val, self.test] if choice == "val" else [self.test, self.val]
        test = next((split for split in order if split is not None), self.whole())
        if self.train.labels is None and self.test is None:
            test = self.whole()
        others = sum(len(split) for split in (self.train, self.val, self.test) if split is not None)
        note = f"all {len(test):,} samples are test samples"
        if len(test) < others:
            name = "test" if test is self.test else "validation"
            note = (
                f"the {len(test):,} samples of the {name} split are tested, the "
                f"{others - len(test):,} others are not"
            )
        none = test.subset([])
        return replace(self, train=none, val=none, test=test, note=_joined(self.note, note))

    def with_val(self, fraction: float, on_problem: OnProblem = raise_problem) -> Layout:
        """Return the layout with a validation split, held out of the training split if none."""
        if self.val is not None:
            return self
        train, val = _divide(self.train, fraction, "val", on_problem)
        return replace(self, train=train, val=val)

    def halves(self) -> tuple[Layout, Layout]:
        """Split training and validation samples into disjoint halves that share the test split."""
        first, second = _divide_evenly(self.train)
        one, other = replace(self, train=first), replace(self, train=second)
        if self.val is not None:
            first, second = _divide_evenly(self.val)
            one, other = replace(one, val=first), replace(other, val=second)
        return one, other

    def whole(self) -> Split:
        """Return the samples of all splits as one split."""
        return concatenated([s for s in (self.train, self.val, self.test) if s is not None])

    def unlabelled(self, classes: Sequence[str]) -> Layout:
        """Return the layout without any labels, for a model that knows ``classes``."""
        return replace(self.map(Split.without_labels), classes=tuple(classes))

    def only(
        self, classes: Sequence[str], where: str, on_problem: OnProblem = raise_problem
    ) -> Layout:
        """Return the layout restricted to these classes, in this order; report unknown names."""
        unknown = [name for name in classes if name not in self.classes]
        if unknown:
            on_problem(
                f"data.classes contains {unknown[0]!r}, which is not a class of {where}; "
                f"{nearest(unknown[0], self.classes)}"
            )
        if len(set(classes)) < max(2, len(classes)):
            on_problem(
                f"data.classes={list(classes)} must name at least two classes, each once; "
                "set data.classes=[<first>,<second>] or data.classes=null"
            )
        kept = [name for name in classes if name in self.classes]
        order = [kept.index(name) if name in kept else -1 for name in self.classes]
        return self._numbered(kept, order)

    def renumbered(
        self,
        classes: Sequence[str],
        setting: str,
        on_problem: OnProblem = raise_problem,
        where: str = "the target",
        otherwise: str = "",
        may_miss: bool = False,
        sets: ClassSets | None = None,
    ) -> Layout:
        """Return the layout with labels that index ``classes`` (of the source), matched by name.

        For the arguments see :func:`.match_classes`; ``sets`` says which classes a target may have.
        Samples of other classes get the label ``len(classes)``.
        """
        adds = sets is not None and sets.may_add
        if sets is not None and (text := sets.problem(classes, self.classes, where)):
            on_problem(text)
        order = match_classes(
            classes, self.classes, where=where, setting=setting, on_problem=on_problem,
            otherwise=otherwise, may_miss=may_miss or (sets is not None and sets.may_miss),
            may_add=adds,
        )  # fmt: skip
        unknown = (UNKNOWN,) if len(classes) in order else ()
        return self._numbered((*classes, *unknown), order)

    def among(self, classes: Sequence[str]) -> Layout:
        """Return the samples of these classes, in their order; those without samples are left out.

        >>> parts = Split(np.zeros((2, 1, 1, 3), np.uint8), np.array([0, 1]), ["a", "b"])
        >>> Layout(("cat", "dog"), parts).among(["dog", "fox"]).train.names
        ['b']
        """
        kept = [name for name in classes if name in self.classes]
        order = [kept.index(name) if name in kept else -1 for name in self.classes]
        return self._numbered(kept, order)

    def map(self, change: Callable[[Split], Split]) -> Layout:
        """Return the layout with ``change`` applied to every split."""
        return replace(
            self,
            train=change(self.train),
            val=None if self.val is None else change(self.val),
            test=None if self.test is None else change(self.test),
        )

    def _numbered(self, classes: Sequence[str], order: Sequence[int]) -> Layout:
        """Map label ``k`` to ``order[k]``; drop samples mapped to -1."""
        table = np.asarray(order, dtype=np.int64)

        def renumber(split: Split) -> Split:
            if split.labels is None:
                return split
            labels = table[split.labels]
            kept = replace(split, labels=labels)
            return (
                kept if (labels >= 0).all() else kept.subset(np.flatnonzero(labels >= 0).tolist())
            )

        return replace(self.map(renumber), classes=tuple(classes))


def read_layout(
    root: Path,
    setting: str = "data.root",
    on_problem: OnProblem = raise_problem,
    scan: Callable[..., dict[str, list[Path]]] = scan_classes,
) -> Layout:
    """Read ``{train,val,test}/<class>/`` (``val`` and ``test`` are optional) or ``<class>/``.

    ``valid/`` and ``validation/`` are accepted for ``val/``. A folder ``train`` of images next to
    other classes is a class of that name: VisDA and CIFAR-100 have a class "train". ``scan`` lists
    the files of every class, see :func:`scan_classes`.

    Raises:
        DataError: If no class folders are found; recoverable problems (a class without files,
            splits whose classes differ) are passed to ``on_problem``.
    """
    if not has_splits(root):
        found = scan(root, setting=setting, on_problem=on_problem)
        return Layout(tuple(found), split_of(root, tuple(found), found))
    folders = split_folders(root, setting, on_problem)
    # Test images of a competition have no labels; those that are not used are told elsewhere.
    folders = {k: path for k, path in folders.items() if k == "train" or class_folders(path)}
    scanned = {
        split: scan(folder, setting=setting, on_problem=on_problem)
        for split, folder in folders.items()
    }
    classes = tuple(next(iter(scanned.values())))  # of train, if there is such a folder
    for split, found in scanned.items():
        match_classes(
            classes,
            list(found),
            where=f"{folders[split]}",
            setting=setting,
            on_problem=on_problem,
        )
    parts = {split: split_of(root, classes, found) for split, found in scanned.items()}
    train = parts.get("train", split_of(root, classes, {}))
    return Layout(classes, train, parts.get("val"), parts.get("test"))


def split_of(root: Path, classes: Sequence[str], found: Mapping[str, Sequence[Path]]) -> Split:
    """Return a split of these files by class, with names relative to ``root``."""
    by_class = [found.get(name, []) for name in classes]
    paths = [path for images in by_class for path in images]
    labels = np.repeat(np.arange(len(classes)), [len(images) for images in by_class])
    names = [path.relative_to(root).as_posix() for path in paths]
    return Split(paths, labels.astype(np.int64), names)


def listed_layout(
    root: Path,
    available: Mapping[str, tuple[str, Path]],
    lists: Mapping[Path, Sequence[str]],
    on_problem: OnProblem,
    *,
    where: Path,
    advice: str,
) -> Layout:
    """Return the layout of a dataset whose official lists name the training and the test images.

    Args:
        root: The names of the samples are relative to it.
        available: Class and path of every image on disk, by its name in the lists.
        lists: The training list and the test list, each with the names in it.
        on_problem: Called for listed images that are missing, or that are in both lists.
        where: Folder that should contain the images, for errors.
        advice: What to do about missing images.
    """
    available = {composed_form(name): found for name, found in available.items()}
    lists = {file: [composed_form(name) for name in names] for file, names in lists.items()}
    classes = tuple(sorted({name for name, _ in available.values()}))
    splits: list[Split] = []
    seen: set[str] = set()
    for file, listed in lists.items():
        absent = [name for name in listed if name not in available]
        if absent:
            on_problem(
                f"{len(absent)} of {len(listed)} images listed in {file} are missing from {where}: "
                f"{shorten(absent)}; {advice}"
            )
        both = [name for name in listed if name in seen]
        if both:
            on_problem(
                f"{len(both)} image(s) listed in {file} are also in {next(iter(lists)).name}: "
                f"{shorten(both)}; remove them from one of the lists"
            )
        members: dict[str, list[Path]] = {name: [] for name in classes}
        for name in sorted(set(listed) - set(absent) - seen):
            members[available[name][0]].append(available[name][1])
        seen |= set(listed)
        splits.append(split_of(root, classes, members))
    return Layout(classes, splits[0], None, splits[1])


def pooled(
    layouts: Mapping[str, Layout], on_problem: OnProblem = raise_problem, asked: Any = None
) -> Layout:
    """Merge domains that share their classes; sample names are prefixed with the domain name.

    Every sample keeps the index of its domain.

    Args:
        layouts: By name of the domain.
        on_problem: Called for domains that differ in their classes or labels.
        asked: The setting that selected them. A single domain keeps its name if it is what
            ``others`` left, so that a run is the same for any number of domains.
    """
    first = next(iter(layouts.values()))
    if len(layouts) == 1 and asked != OTHERS:
        return first
    bare = [name for name, layout in layouts.items() if layout.train.labels is None]
    if 0 < len(bare) < len(layouts):
        labelled = [name for name in layouts if name not in bare]
        on_problem(
            f"of the domains of the target, {shorten(bare)} has no labels, but {shorten(labelled)} "
            "has; set data.target.labels=none to use all of them without labels, or leave some out"
        )
    same = {
        name: layout.map(
            lambda split, name=name, number=number: replace(  # type: ignore[misc]
                split,
                names=[f"{name}/{old}" for old in split.names],
                domains=np.full(len(split), number, dtype=np.int64),
            )
        ).renumbered(first.classes, "data.source.domain", on_problem, where=f"the domain {name}")
        for number, (name, layout) in enumerate(layouts.items())
    }
    parts = {
        split: [getattr(layout, split) for layout in same.values()]
        for split in ("train", "val", "test")
    }
    # A split that only some domains define joins the training samples instead.
    known = {split: all(p is not None for p in found) for split, found in parts.items()}
    if not known["val"]:
        parts["train"] += [p for p in parts["val"] if p is not None]
    if not known["test"]:
        parts["train"] += [p for p in parts["test"] if p is not None]
    note = _joined(*dict.fromkeys(layout.note for layout in same.values()))
    return Layout(
        first.classes,
        concatenated(parts["train"]),
        concatenated(parts["val"]) if known["val"] else None,
        concatenated(parts["test"]) if known["test"] else None,
        note,
        tuple(layouts),
    )


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def _keyed(split: Split) -> tuple[list[str], list[int]]:
    """Return ``class/file`` and the labels, so that the split does not depend on the layout.

    Samples without labels are split as if they were of one class.
    """
    labels = np.zeros(len(split), dtype=np.int64) if split.labels is None else split.labels
    names = [composed_form("/".join(name.split("/")[-2:])) for name in split.names]
    return names, labels.tolist()


def _divide(split: Split, fraction: float, salt: str, on_problem: OnProblem) -> tuple[Split, Split]:
    rest, held = split_by_hash(*_keyed(split), fraction, salt, on_problem)
    return split.subset(rest), split.subset(held)


def _divide_evenly(split: Split) -> tuple[Split, Split]:
    first, second = halves_by_hash(*_keyed(split), "halves")
    return split.subset(first), split.subset(second)
