"""Source and optional target of a dataset on disk, read from their settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from tl_lightning.data.class_sets import ClassSets
from tl_lightning.data.domain import Domain
from tl_lightning.data.few_labels import few_labels
from tl_lightning.data.io.folders import OnProblem, raise_problem
from tl_lightning.data.io.labels import class_name
from tl_lightning.data.layout import Layout
from tl_lightning.data.splits import with_labelled
from tl_lightning.data.target import no_target
from tl_lightning.data.unlabelled import OTHER_CLASSES, FolderReader, same_samples
from tl_lightning.errors import DataError, nearest
from tl_lightning.utils.text import shorten

__all__ = ["LABELS", "DomainReader", "SourceTarget", "TestSplit", "check_labels", "only_keys"]

SOURCE_KEYS = {"root", "domain"}
#: What to do with the labels of the target.
LABELS = ("auto", "none")
TestSplit = Literal["auto", "val", "hold_out"]


class DomainReader(Protocol):
    """What a data module of files implements, see :class:`.image_files.ImageFilesDataModule`.

    Attributes:
        name: Name of the dataset.
        has_domains: Whether it has several domains, which ``domain`` selects.
        target_keys: Keys allowed in ``target``.
        target_optional: Whether a ``target`` with only empty values means no target.
        target_requires: Key of ``target`` that a target must set; empty: any of them.
        other_data: The ``data`` option with domains, suggested in errors.
        gives: What the samples are, for messages: ``images`` or ``texts``.
        in_folders: Whether the samples are files in folders, not rows of a table.
        only_tested: Domains of which a trained model is tested on all samples.
    """

    name: str | None
    has_domains: ClassVar[bool]
    target_keys: ClassVar[frozenset[str]]
    target_optional: ClassVar[bool]
    target_requires: ClassVar[str]
    other_data: ClassVar[str]
    gives: ClassVar[str]
    in_folders: ClassVar[bool]
    only_tested: frozenset[str]

    def read(self, domain: str, node: Mapping[str, Any]) -> tuple[str, Layout]:
        """Return the name and the layout of one domain without opening its samples.

        Args:
            domain: ``source`` or ``target``.
            node: Its settings.

        Raises:
            DataError: If the domain cannot be read; recoverable problems are passed to
                ``on_problem``.
        """

    def list_files(self, folder: Path) -> list[Path]:
        """Return the samples directly in a folder."""

    def scan(self, folder: Path, **kwargs: Any) -> dict[str, list[Path]]:
        """Return the samples of every class folder, see :func:`.scan_classes`."""

    def has_own_layout(self, folder: Path) -> bool:
        """Return whether a folder has labels although none of its folders is named as a class."""

    def read_test(self, place: str) -> Layout:
        """Return the samples of ``data.target.test``, all of them labelled."""

    def load_samples(self, layout: Layout) -> Layout:
        """Return the layout with the samples in memory, if they are kept there."""

    def synthetic(self, name: str, layout: Layout) -> Mapping[str, Domain]:
        """Return the domains for a target with neither a root nor a domain."""

    def check_apart(self, source: Layout, target: Layout) -> None:
        """Report samples that are in both domains."""


class SourceTarget:
    """Finds the domains of a data module from the settings of source and target.

    Args:
        data: The data module, which reads a single domain.
        root: The dataset folder or its parent.
        val_fraction: Fraction of the training samples to hold out for validation if the dataset
            has no validation split.
        test_fraction: Fraction to hold out for testing if the dataset has no test split.
        test_split: ``auto``: the dataset's test split, or else its validation split, or else the
            fraction ``test_fraction``; ``val``: its validation split in any case; ``hold_out``: its
            test split, or else the fraction.
        classes: Names of the classes to use, or None for all.
        transductive: Whether the target is trained (without labels) and tested on all of its
            samples, as in most of the literature on domain adaptation; noted in the report. A
            target without labels is predicted on all of its samples in any case; this also trains
            on the samples by which the model is selected.
        source: ``{root, domain}``: a folder other than ``root``, and one or several of its
            domains; None for each that does not apply.
        target: Mapping with any of ``target_keys``, or None for no target.
            ``labelled_per_class`` training samples of every class keep their labels (0: none).
            ``classes`` is one of :data:`.CLASS_SETS`. ``labels`` is ``auto``, or ``none`` to ignore
            class folders and labels; ``test`` is a labelled test set beside a target that is
            trained without labels.
        labelled_per_class: See :func:`.few_labels`.
    """

    def __init__(
        self,
        data: DomainReader,
        *,
        root: str,
        val_fraction: float,
        test_fraction: float,
        test_split: TestSplit,
        classes: Sequence[str] | None,
        transductive: bool,
        source: Mapping[str, Any],
        target: Mapping[str, Any] | None,
        labelled_per_class: int | None = None,
    ) -> None:
        self.on_problem: OnProblem = raise_problem
        only_keys("data.source", source, SOURCE_KEYS)
        only_keys("data.target", target or {}, set(data.target_keys))
        check_labels(target or {})
        for name, node in (("source", source), ("target", target or {})):
            if node.get("domain") is not None and not data.has_domains:
                raise DataError(
                    f"data.{name}.domain={node['domain']}, but data={data.name} has one domain; "
                    f"set data.{name}.domain=null, or data={data.other_data} for folders "
                    "<domain>/<class>/<file>"
                )
        self.data = data
        self.root = root
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.test_split: TestSplit = test_split
        self.sets = ClassSets(target or {})
        self.classes = None if classes is None else [class_name(name) for name in classes]
        self.transductive = transductive
        self.labelled_per_class = labelled_per_class
        self.source = source
        self.target = None if no_target(data, target) else target
        #: Whether the labels of the target's training samples are ignored.
        self.ignores_labels = (target or {}).get("labels") == "none"
        #: All classes of the source, before ``classes`` selects some of them.
        self.source_classes: tuple[str, ...] = ()

    def node(self, domain: str) -> Mapping[str, Any]:
        """Return the settings of a domain."""
        return (self.source if domain == "source" else self.target) or {}

    def base(self, domain: str) -> tuple[str, str]:
        """Return the folder to search for a domain, and the key that sets it."""
        own = self.node(domain).get("root")
        return (self.root, "data.root") if own is None else (str(own), f"data.{domain}.root")

    def domains(self) -> Mapping[str, Domain]:
        """Return the source and, unless ``target`` is None, the target."""
        return few_labels(self._domains(), self.labelled_per_class)

    def _domains(self) -> Mapping[str, Domain]:
        name, layout = self._read("source")
        layout = self._loaded(layout, f"the source ({name})")
        if self.target is None:
            return {"source": self.split_domain(name, layout)}
        if all(self.target.get(key) is None for key in ("root", "domain", "table")):
            if self.target.get("test") is not None:
                raise DataError(
                    f"data.target.test={self.target['test']} is a test set of a target, but no "
                    "target is set; set data.target.root=<folder>, or data.target.test=null"
                )
            return self.data.synthetic(name, layout)
        target_name, files = self._read("target")
        target = self._loaded_target(files, f"the target ({target_name})")
        self.data.check_apart(layout, target)
        setting = "data.target.domain" if self.data.has_domains else "data.target.root"
        if target.train.labels is not None:
            note = self.sets.note(layout.classes, target.classes)
            target = replace(target, note="; ".join(part for part in (note, target.note) if part))
        target = target.renumbered(
            layout.classes, setting, self.on_problem, otherwise=OTHER_CLASSES, sets=self.sets
        )
        if self.target.get("test") is not None:
            test = self._test_set(str(self.target["test"]), files)
            self.data.check_apart(layout, test)
            test = test.renumbered(layout.classes, setting, may_miss=True, sets=self.sets)
            notes = "; ".join(part for part in (target.note, test.note) if part)
            classes = max(target.classes, test.classes, key=len)
            target = replace(target, classes=classes, test=test.test, note=notes)
        source = self.split_domain(name, layout)
        return {"source": source, "target": self.split_target(target_name, target)}

    def _read(self, domain: str) -> tuple[str, Layout]:
        found = self._folder_without_labels() if domain == "target" else None
        name, layout = found or self.data.read(domain, self.node(domain))
        if domain == "source":
            self.source_classes = layout.classes
        elif self.ignores_labels:
            layout = layout.unlabelled(self.source_classes)
        return name, layout

    def _loaded(self, layout: Layout, where: str) -> Layout:
        if self.classes is not None:
            layout = layout.only(self.classes, where, self.on_problem)
        return self.data.load_samples(layout)

    def _loaded_target(self, layout: Layout, where: str) -> Layout:
        if self.classes is None or self.sets.kind == "same":
            return self._loaded(layout, where)
        # Classes that are left out of the source are unknown ones, or also left out of the target.
        return self.data.load_samples(layout if self.sets.may_add else layout.among(self.classes))

    def _folder_without_labels(self) -> tuple[str, Layout] | None:
        """Return the target if it is a folder without labels, whatever the dataset's layout."""
        root, setting = self.base("target")
        folder = Path(root).expanduser().absolute()
        is_folder = setting == "data.target.root" and self.node("target").get("domain") is None
        if not (is_folder and self.data.in_folders) or self.data.has_own_layout(folder):
            return None
        layout = self.without_labels(folder, setting)
        return None if layout is None else (folder.name, layout)

    def without_labels(self, folder: Path, setting: str) -> Layout | None:
        """Return the layout of a folder of the target; None if it has labels."""
        return self.folders.read(folder, setting)

    @property
    def folders(self) -> FolderReader:
        """Reader of the target's folders; available when the source has been read."""
        return FolderReader(
            self.source_classes, self.data.gives, self.data.list_files, self.data.scan,
            self.on_problem, self.ignores_labels, self.sets,
        )  # fmt: skip

    def in_part(self, layout: Layout, setting: str = "data.target.domain") -> Layout:
        """Return a layout of the target, some of whose classes or labels may be missing.

        Args:
            layout: With labels that index its own classes.
            setting: Configuration key that selects it, for errors.
        """
        return layout.renumbered(
            self.source_classes, setting, self.on_problem, otherwise=OTHER_CLASSES, may_miss=True,
            sets=self.sets,
        )  # fmt: skip

    def _test_set(self, place: str, target: Layout) -> Layout:
        """Return ``data.target.test`` as the test split of a layout.

        Args:
            place: The folder or table.
            target: The rest of the target, which must not contain any of its samples.
        """
        if target.test is not None:
            self.on_problem(
                f"data.target.test={place} is set, but the target has a test split of "
                f"{len(target.test):,} {self.data.gives} itself; remove it, or set "
                "data.target.test=null"
            )
        found = self.data.read_test(place)
        if shared := same_samples(target, found):
            self.on_problem(
                f"the target's training {self.data.gives} and data.target.test={place} both "
                f"contain {shared[0]} (and {len(shared) - 1} more); remove them from one of them"
            )
        found = self._loaded_target(found, "data.target.test")
        whole = found.whole()
        assert whole.labels is not None
        note = f"data.target.test={place}: {len(whole):,} labelled test {self.data.gives}"
        present = set(whole.labels.tolist())
        if absent := [name for k, name in enumerate(found.classes) if k not in present]:
            note += f", of {len(present)} of {len(found.classes)} classes (not {shorten(absent)})"
        # Names start with .., so that no sample of the target has the same name.
        names = [f"../{Path(place).name}/{name}" for name in whole.names]
        return Layout(found.classes, whole.subset([]), None, replace(whole, names=names), note)

    def split_domain(self, name: str, layout: Layout, key: str = "source") -> Domain:
        """Return a domain with splits; those that the layout does not have are held out.

        Args:
            name: Name of the domain in reports.
            layout: Its samples.
            key: ``source`` or ``target``.
        """
        if key in self.data.only_tested:
            layout = layout.only_tested(self.test_split)
        else:
            layout = layout.with_test(self.test_fraction, self.on_problem, self.test_split)
            layout = layout.with_val(self.val_fraction, self.on_problem)
        assert layout.val is not None
        assert layout.test is not None
        return Domain(
            name, layout.classes, layout.train, layout.val, layout.test, layout.note,
            domains=layout.domains,
        )  # fmt: skip

    def split_target(self, name: str, layout: Layout) -> Domain:
        """Return the target with splits, and with its few labelled samples if there are any."""
        if self.ignores_labels and layout.train.labels is not None:
            layout = layout.unlabelled(layout.classes)
        domain = self.split_domain(name, layout, "target")
        if "target" in self.data.only_tested:
            return domain
        if self.transductive:
            domain = self._transductive(domain, layout)
        elif domain.test.labels is None:
            note = (
                f"{len(domain.train):,} for training, {len(domain.val):,} for validation, and "
                f"{len(domain.test):,} are predicted, without accuracy"
            )
            domain = replace(domain, note="; ".join(p for p in (domain.note, note) if p))
        count = self.node("target").get("labelled_per_class") or 0
        return with_labelled(domain, count, self.transductive) if count else domain

    def _transductive(self, domain: Domain, layout: Layout) -> Domain:
        own_test = layout.test is not None and layout.test.labels is not None
        if own_test and (layout.train.labels is None or self.node("target").get("test")):
            raise DataError(
                "data.transductive=true tests on the training samples, but the target has a "
                "labelled test set of its own; set data.transductive=false"
            )
        whole = layout.whole()
        note = "transductive: training (without labels) and testing use all target samples"
        notes = "; ".join(part for part in (layout.note, note) if part)
        return replace(domain, train=whole, test=whole, note=notes)


def check_labels(target: Mapping[str, Any]) -> None:
    """Raise DataError if ``labels`` of the target is set to an unknown value."""
    given = target.get("labels", "auto")
    if given not in LABELS:
        raise DataError(f"data.target.labels={given} is not valid; {nearest(str(given), LABELS)}")


def only_keys(key: str, given: Mapping[str, Any], known: set[str], every: bool = False) -> None:
    """Check the keys of a mapping.

    Raises:
        DataError: If a key is unknown or, with ``every``, a known key is missing.
    """
    for name in given:
        if name not in known:
            hint = nearest(str(name), known) if known else f"set {key}={{}}"
            raise DataError(f"{key} has no key {name!r}; {hint}")
    missing = sorted(known - set(given))
    if every and missing:
        raise DataError(f"{key} lacks {', '.join(missing)}; set {key}.{missing[0]}=<value>")
