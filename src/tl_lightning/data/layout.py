"""What a folder of pictures says of its classes and splits, and how the rest is decided."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tl_lightning.data.domain import Split
from tl_lightning.data.io.folders import (
    Complain,
    class_folders,
    match_classes,
    refuse,
    scan_classes,
)
from tl_lightning.data.splits import halves_by_hash, split_by_hash
from tl_lightning.errors import nearest

__all__ = ["Layout", "pooled", "read_layout", "split_of"]

#: Names that a split's folder may have.
SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


@dataclass(frozen=True)
class Layout:
    """A folder of pictures; what it does not say is decided by a hash of ``class/file``.

    Attributes:
        classes: Class names; labels index them.
        train, val, test: Its splits; None where the folder does not say.
        note: What the report must say of its splits.
    """

    classes: tuple[str, ...]
    train: Split
    val: Split | None = None
    test: Split | None = None
    note: str = ""

    def paths(self) -> list[Path]:
        """Return every file of every split; none of what is held in memory."""
        splits = [split for split in (self.train, self.val, self.test) if split is not None]
        return [
            Path(picture)
            for split in splits
            if not isinstance(split.pictures, np.ndarray)
            for picture in split.pictures
        ]

    def with_test(self, fraction: float, complain: Complain = refuse) -> Layout:
        """Return it with test pictures, ``fraction`` of those for training if it has none."""
        if self.test is not None:
            return self
        train, test = _divide(self.train, fraction, "test", complain)
        note = (
            f"no official split was found: {fraction:.0%} of every class, chosen by a hash of "
            "the names, are held out for testing"
        )
        return replace(self, train=train, test=test, note=_joined(self.note, note))

    def with_val(self, fraction: float, complain: Complain = refuse) -> Layout:
        """Return it with validation pictures, ``fraction`` of those for training if it has none."""
        if self.val is not None:
            return self
        train, val = _divide(self.train, fraction, "val", complain)
        return replace(self, train=train, val=val)

    def halves(self) -> tuple[Layout, Layout]:
        """Divide what is learned and chosen from in two disjoint halves; both keep the test."""
        first, second = _divide_evenly(self.train)
        one, other = replace(self, train=first), replace(self, train=second)
        if self.val is not None:
            first, second = _divide_evenly(self.val)
            one, other = replace(one, val=first), replace(other, val=second)
        return one, other

    def whole(self) -> Split:
        """Return the pictures of every split as one split."""
        return _concatenated([s for s in (self.train, self.val, self.test) if s is not None])

    def only(self, classes: Sequence[str], where: str, complain: Complain = refuse) -> Layout:
        """Return it with these classes alone, in this order; complains of names it lacks."""
        unknown = [name for name in classes if name not in self.classes]
        if unknown:
            complain(
                f"data.classes names {unknown[0]!r}, which {where} does not have; "
                f"{nearest(unknown[0], self.classes)}"
            )
        if len(set(classes)) < max(2, len(classes)):
            complain(
                f"data.classes={list(classes)} must name at least two classes, each once; "
                "type data.classes=[one,other] or data.classes=null"
            )
        kept = [name for name in classes if name in self.classes]
        order = [kept.index(name) if name in kept else -1 for name in self.classes]
        return self._numbered(kept, order)

    def renumbered(
        self,
        classes: Sequence[str],
        setting: str,
        complain: Complain = refuse,
        where: str = "the target",
    ) -> Layout:
        """Return it with labels that index ``classes`` (the source's), matched by name."""
        order = match_classes(
            classes, self.classes, where=where, setting=setting, complain=complain
        )
        return self._numbered(classes, order)

    def map(self, change: Callable[[Split], Split]) -> Layout:
        """Return it with every split changed."""
        return replace(
            self,
            train=change(self.train),
            val=None if self.val is None else change(self.val),
            test=None if self.test is None else change(self.test),
        )

    def _numbered(self, classes: Sequence[str], order: Sequence[int]) -> Layout:
        """Give label ``k`` the number ``order[k]``; pictures numbered -1 are left out."""
        table = np.asarray(order, dtype=np.int64)

        def renumber(split: Split) -> Split:
            labels = table[split.labels]
            kept = replace(split, labels=labels)
            return (
                kept if (labels >= 0).all() else kept.subset(np.flatnonzero(labels >= 0).tolist())
            )

        return replace(self.map(renumber), classes=tuple(classes))


def read_layout(
    root: Path,
    setting: str = "data.root",
    complain: Complain = refuse,
    scan: Callable[..., dict[str, list[Path]]] = scan_classes,
) -> Layout:
    """Read ``{train,val,test}/<class>/`` (``val`` and ``test`` may lack), or else ``<class>/``.

    ``valid/`` and ``validation/`` will do for ``val/``. A folder ``train`` of pictures among other
    classes is the class of that name: trains are on rails in VisDA and CIFAR-100. ``scan`` finds
    the files of every class, as :func:`scan_classes` does.

    Raises:
        DataError: If there are no class folders; ``complain`` decides on lesser faults: a class
            without pictures, splits whose classes differ.
    """
    if not _has_splits(root):
        found = scan(root, setting=setting, complain=complain)
        return Layout(tuple(found), split_of(root, tuple(found), found))
    places = {
        split: [root / name for name in names if (root / name).is_dir()]
        for split, names in SPLITS.items()
    }
    if len(places["val"]) > 1:
        complain(
            f"{root} holds {' and '.join(place.name for place in places['val'])}, which are all "
            f"validation pictures; keep one of them, or type {setting}=/another/folder"
        )
    scanned = {
        split: scan(found[0], setting=setting, complain=complain)
        for split, found in places.items()
        if found
    }
    classes = tuple(scanned["train"])
    for split, found in scanned.items():
        match_classes(
            classes, list(found), where=f"{places[split][0]}", setting=setting, complain=complain
        )
    parts = {split: split_of(root, classes, found) for split, found in scanned.items()}
    return Layout(classes, parts["train"], parts.get("val"), parts.get("test"))


def _has_splits(root: Path) -> bool:
    """Return whether ``root/train`` is a split, rather than a class or absent."""
    if class_folders(root / "train"):
        return True
    known = {name for names in SPLITS.values() for name in names}
    return (root / "train").is_dir() and {path.name for path in class_folders(root)} <= known


def split_of(root: Path, classes: Sequence[str], found: Mapping[str, Sequence[Path]]) -> Split:
    """Return the split of these pictures by class, named relative to ``root``."""
    by_class = [found.get(name, []) for name in classes]
    paths = [path for pictures in by_class for path in pictures]
    labels = np.repeat(np.arange(len(classes)), [len(pictures) for pictures in by_class])
    names = [path.relative_to(root).as_posix() for path in paths]
    return Split(paths, labels.astype(np.int64), names)


def pooled(layouts: Mapping[str, Layout], complain: Complain = refuse) -> Layout:
    """Return several domains of the same classes as one; names get the domain's in front."""
    first = next(iter(layouts.values()))
    if len(layouts) == 1:
        return first
    same = {
        name: layout.map(
            lambda split, name=name: replace(  # type: ignore[misc]
                split, names=[f"{name}/{old}" for old in split.names]
            )
        ).renumbered(first.classes, "data.source.domain", complain, where=f"the domain {name}")
        for name, layout in layouts.items()
    }
    parts = {
        split: [getattr(layout, split) for layout in same.values()]
        for split in ("train", "val", "test")
    }
    # A split that only some of the domains have would hold some of them only.
    known = {split: all(p is not None for p in found) for split, found in parts.items()}
    if not known["val"]:
        parts["train"] += [p for p in parts["val"] if p is not None]
    if not known["test"]:
        parts["train"] += [p for p in parts["test"] if p is not None]
    note = _joined(*dict.fromkeys(layout.note for layout in same.values()))
    return Layout(
        first.classes,
        _concatenated(parts["train"]),
        _concatenated(parts["val"]) if known["val"] else None,
        _concatenated(parts["test"]) if known["test"] else None,
        note,
    )


def _concatenated(splits: Sequence[Split]) -> Split:
    held = [split.pictures for split in splits if isinstance(split.pictures, np.ndarray)]
    pictures: Any = [Path(picture) for split in splits for picture in split.pictures if not held]
    pictures = np.concatenate(held) if held else pictures
    labels = np.concatenate([split.labels for split in splits])
    names = [name for split in splits for name in split.names]
    return Split(pictures, labels, names, splits[0].change)


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def _keyed(split: Split) -> tuple[list[str], list[int]]:
    """Return ``class/file`` and the labels: a picture is split alike in every layout."""
    assert split.labels is not None
    return ["/".join(name.split("/")[-2:]) for name in split.names], split.labels.tolist()


def _divide(split: Split, fraction: float, salt: str, complain: Complain) -> tuple[Split, Split]:
    rest, held = split_by_hash(*_keyed(split), fraction, salt, complain)
    return split.subset(rest), split.subset(held)


def _divide_evenly(split: Split) -> tuple[Split, Split]:
    first, second = halves_by_hash(*_keyed(split), "halves")
    return split.subset(first), split.subset(second)
