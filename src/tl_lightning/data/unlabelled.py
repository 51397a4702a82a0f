"""Folders of a target without labels: flat, nested, or with labels in the test split only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from tl_lightning.data.class_sets import AS_CLASS_SETS, ClassSets, with_unknown
from tl_lightning.data.domain import Split
from tl_lightning.data.io.folders import (
    OnProblem,
    class_folders,
    folders_below,
    has_splits,
    real_paths,
    split_folders,
)
from tl_lightning.data.io.labels import class_name, plain_name
from tl_lightning.data.layout import Layout, read_layout
from tl_lightning.utils.text import shorten

__all__ = ["AS_UNLABELLED", "OTHER_CLASSES", "FolderReader", "same_samples"]

#: The way out of a problem with the labels of a target.
AS_UNLABELLED = "set data.target.labels=none to use it without labels"
#: The ways out of a target with other classes than the source.
OTHER_CLASSES = f"{AS_UNLABELLED}; {AS_CLASS_SETS}"
#: Similarity of two names from which one is taken for a misspelling of the other, and number of
#: letters from which a name is recognised inside another one.
ALIKE, LETTERS = 0.75, 4
#: Spellings are compared for at most this number of folders per class, as it takes time.
FOLDERS = 10


@dataclass(frozen=True)
class FolderReader:
    """Reads a target folder that may have no labels.

    A folder has labels if any folder in it, at any depth, is named as a class. Otherwise all of its
    files are used without labels, unless names look like other spellings of the classes, or there
    are as many folders with files as classes.

    Args:
        classes: Class names of the source.
        kind: What the files are, for messages: ``images`` or ``texts``.
        files: Lists the files directly in a folder.
        scan: Lists the files of every class folder, see :func:`.scan_classes`.
        on_problem: Called with problems.
        ignore: Whether to use the files without labels even if there are class folders.
        sets: Which classes the target may have.
    """

    classes: Sequence[str]
    kind: str
    files: Callable[[Path], list[Path]]
    scan: Callable[..., dict[str, list[Path]]]
    on_problem: OnProblem
    ignore: bool
    sets: ClassSets

    def read(self, root: Path, setting: str) -> Layout | None:
        """Return the layout of a folder without labels; None if it has class folders or no files.

        With folders ``train`` and, optionally, ``val`` and ``test``, each of them may have class
        folders or not; if ``train`` has some, the result is None.

        Args:
            root: The folder.
            setting: Configuration key that selects it, for messages.
        """
        parts = {"train": root}
        if has_splits(root) and not self.files(root):
            parts = split_folders(root, setting, self.on_problem)
        labelled = {name for name, path in parts.items() if self._labelled(path, setting)}
        if "train" in labelled:
            return None
        splits = {
            name: self._with_labels(root, path, setting) if name in labelled
            else self._without_labels(root, path)
            for name, path in parts.items()
        }  # fmt: skip
        if not len(splits["train"]):
            return None
        number = sum(len(split) for split in splits.values() if split.labels is None)
        where = f"{setting}={root}" if setting.endswith("root") else str(root)
        text = f"{where} has no class folders: {number:,} {self.kind} without labels"
        if self.ignore:
            text = f"data.target.labels=none: {number:,} {self.kind} of {root} without labels"
        classes = with_unknown(self.classes, [split.labels for split in splits.values()])
        found = Layout(classes, splits["train"], splits.get("val"), splits.get("test"))
        return replace(found, note=text)

    def read_labelled(self, root: Path, setting: str) -> Layout:
        """Return the layout of a labelled test set; its classes may be some of the source's."""
        found = read_layout(root, setting, self.on_problem, self.scan)
        return found.renumbered(
            self.classes, setting, self.on_problem, where=f"{setting}={root}", may_miss=True,
            otherwise=AS_CLASS_SETS, sets=self.sets,
        )  # fmt: skip

    def _with_labels(self, root: Path, path: Path, setting: str) -> Split:
        whole = self.read_labelled(path, setting).whole()
        names = [Path(file).relative_to(root).as_posix() for file in whole.samples]
        return replace(whole, names=names)

    def _without_labels(self, root: Path, path: Path) -> Split:
        files = [file for folder in folders_below(path) for file in self.files(folder)]
        names = [file.relative_to(root).as_posix() for file in files]
        order = sorted(range(len(files)), key=names.__getitem__)
        return Split([files[k] for k in order], None, [names[k] for k in order])

    def _labelled(self, path: Path, setting: str) -> bool:
        """Return whether a folder has class folders; report names that look like classes."""
        if self.ignore:
            return False
        tree = folders_below(path)
        inner = [folder for folder in tree if folder != path]
        if {class_name(folder.name) for folder in inner} & set(self.classes):
            return True
        filled = [folder.name for folder in inner if self.files(folder)]
        few = len(filled) <= FOLDERS * len(self.classes)
        alike = {name: match for name in filled if few and (match := self._alike(name))}
        sets = {len(filled)} | {sum(map(bool, map(self.files, class_folders(f)))) for f in tree}
        if alike or len(self.classes) in sets:
            found = [f"{name} (did you mean {match}?)" for name, match in alike.items()]
            found += [name for name in filled if name not in alike]
            self.on_problem(
                f"{setting}: {len(filled)} folder(s) with {self.kind} in {path} are not named as "
                f"the {len(self.classes)} classes of the source, but may be meant as classes: "
                f"{shorten(found)}; classes: {shorten(self.classes)}; rename the folders so that "
                f"the names match, or {AS_UNLABELLED}"
            )
        return False

    def _alike(self, name: str) -> str:
        """Return the class that a folder name may be another spelling of; empty if none is."""
        given, plain = plain_name(name), {plain_name(one): one for one in self.classes}
        inside = [
            one
            for one in plain
            if min(len(one), len(given)) >= LETTERS and (one in given or given in one)
        ]
        close = inside or get_close_matches(given, plain, n=1, cutoff=ALIKE)
        return plain[close[0]] if close else ""


def same_samples(one: Layout, other: Layout) -> list[Path]:
    """Return the files that are in both layouts, also if one of them is a link to the other."""
    known = set(real_paths(one.paths()))
    paths = other.paths()
    pairs = zip(paths, real_paths(paths), strict=True)
    return sorted(path for path, real in pairs if real in known)
