"""What a folder of pictures says of its classes and splits, and how the rest is decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tl_lightning.data.dataset import Split
from tl_lightning.data.folder import halves_by_hash, match_classes, scan_classes, split_by_hash

__all__ = ["TEST_FRACTION", "Layout", "read_layout", "split_of"]

# Held out for testing where a folder has no test pictures of its own.
TEST_FRACTION = 0.4


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
        """Return every picture of every split."""
        splits = [split for split in (self.train, self.val, self.test) if split is not None]
        return [Path(picture) for split in splits for picture in split.pictures]

    def with_test(self) -> Layout:
        """Return it with test pictures, taken from those for training if it has none."""
        if self.test is not None:
            return self
        train, test = _divide(self.train, TEST_FRACTION, "test")
        note = (
            f"no official split was found: {TEST_FRACTION:.0%} of every class, chosen by a hash of "
            "the file names, are the test pictures"
        )
        return replace(self, train=train, test=test, note=note)

    def splits(self, val_fraction: float) -> tuple[Split, Split, Split, str]:
        """Return training, validation and test pictures and the note."""
        whole = self.with_test()
        assert whole.test is not None
        train, val = whole.train, whole.val
        if val is None:
            train, val = _divide(train, val_fraction, "val")
        return train, val, whole.test, whole.note

    def halves(self) -> tuple[Layout, Layout]:
        """Divide what is learned and chosen from in two disjoint halves; both keep the test."""
        first, second = _divide_evenly(self.train)
        one, other = replace(self, train=first), replace(self, train=second)
        if self.val is not None:
            first, second = _divide_evenly(self.val)
            one, other = replace(one, val=first), replace(other, val=second)
        return one, other

    def renumbered(self, classes: Sequence[str], setting: str) -> Layout:
        """Return it with labels that index ``classes`` (the source's), matched by name."""
        order = np.asarray(match_classes(classes, self.classes, setting=setting), dtype=np.int64)

        def renumber(split: Split) -> Split:
            return replace(split, labels=order[split.labels])

        return replace(
            self,
            classes=tuple(classes),
            train=renumber(self.train),
            val=None if self.val is None else renumber(self.val),
            test=None if self.test is None else renumber(self.test),
        )


def read_layout(root: Path, setting: str = "data.root") -> Layout:
    """Read ``{train,val,test}/<class>/`` (``val`` and ``test`` may lack), or else ``<class>/``.

    Raises:
        DataError: If classes are missing or empty, or the splits' classes differ.
    """
    if not (root / "train").is_dir():
        found = scan_classes(root, setting=setting)
        return Layout(tuple(found), split_of(root, tuple(found), found))
    scanned = {
        split: scan_classes(root / split, setting=setting)
        for split in ("train", "val", "test")
        if (root / split).is_dir()
    }
    classes = tuple(scanned["train"])
    for split, found in scanned.items():
        match_classes(classes, list(found), where=f"{root / split}", setting=setting)
    parts = {split: split_of(root, classes, found) for split, found in scanned.items()}
    return Layout(classes, parts["train"], parts.get("val"), parts.get("test"))


def split_of(root: Path, classes: Sequence[str], found: Mapping[str, Sequence[Path]]) -> Split:
    """Return the split of these pictures by class, named relative to ``root``."""
    paths = [path for name in classes for path in found[name]]
    labels = np.repeat(np.arange(len(classes)), [len(found[name]) for name in classes])
    names = [path.relative_to(root).as_posix() for path in paths]
    return Split(paths, labels.astype(np.int64), names)


def _keyed(split: Split) -> tuple[list[str], list[int]]:
    """Return ``class/file`` and the labels: a picture is split alike in every layout."""
    assert split.labels is not None
    return ["/".join(name.split("/")[-2:]) for name in split.names], split.labels.tolist()


def _divide(split: Split, fraction: float, salt: str) -> tuple[Split, Split]:
    rest, held = split_by_hash(*_keyed(split), fraction, salt)
    return split.subset(rest), split.subset(held)


def _divide_evenly(split: Split) -> tuple[Split, Split]:
    first, second = halves_by_hash(*_keyed(split), "halves")
    return split.subset(first), split.subset(second)
