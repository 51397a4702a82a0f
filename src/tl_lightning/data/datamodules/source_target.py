"""Source and optional target of a dataset on disk, read from their settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol

from tl_lightning.data.domain import Domain
from tl_lightning.data.io.folders import OnProblem, raise_problem
from tl_lightning.data.layout import Layout
from tl_lightning.data.splits import with_labelled
from tl_lightning.errors import DataError, nearest

__all__ = ["DomainReader", "SourceTarget", "only_keys"]

SOURCE_KEYS = {"root", "domain"}


class DomainReader(Protocol):
    """What a data module of files implements, see :class:`.image_files.ImageFilesDataModule`.

    Attributes:
        name: Name of the dataset.
        has_domains: Whether it has several domains, which ``domain`` selects.
        target_keys: Keys allowed in ``target``.
        other_data: The ``data`` option with domains, suggested in errors.
    """

    name: str | None
    has_domains: ClassVar[bool]
    target_keys: ClassVar[frozenset[str]]
    other_data: ClassVar[str]

    @classmethod
    def no_target(cls, target: Mapping[str, Any] | None) -> bool:
        """Return whether these settings of ``target`` mean no target."""

    def read(self, domain: str, node: Mapping[str, Any]) -> tuple[str, Layout]:
        """Return the name and the layout of one domain without opening its samples.

        Args:
            domain: ``source`` or ``target``.
            node: Its settings.

        Raises:
            DataError: If the domain cannot be read; recoverable problems are passed to
                ``on_problem``.
        """

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
        classes: Names of the classes to use, or None for all.
        transductive: Whether the target is trained (without labels) and tested on all of its
            samples, as in most of the literature on domain adaptation; noted in the report.
        source: ``{root, domain}``: a folder other than ``root``, and one or several of its
            domains; None for each that does not apply.
        target: Mapping with any of ``target_keys``, or None for no target.
            ``labelled_per_class`` training samples of every class keep their labels (0: none).
    """

    def __init__(
        self,
        data: DomainReader,
        *,
        root: str,
        val_fraction: float,
        test_fraction: float,
        classes: Sequence[str] | None,
        transductive: bool,
        source: Mapping[str, Any],
        target: Mapping[str, Any] | None,
    ) -> None:
        self.on_problem: OnProblem = raise_problem
        only_keys("data.source", source, SOURCE_KEYS)
        only_keys("data.target", target or {}, set(data.target_keys))
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
        self.classes = classes
        self.transductive = transductive
        self.source = source
        self.target = None if data.no_target(target) else target

    def node(self, domain: str) -> Mapping[str, Any]:
        """Return the settings of a domain."""
        return (self.source if domain == "source" else self.target) or {}

    def base(self, domain: str) -> tuple[str, str]:
        """Return the folder to search for a domain, and the key that sets it."""
        own = self.node(domain).get("root")
        return (self.root, "data.root") if own is None else (str(own), f"data.{domain}.root")

    def domains(self) -> Mapping[str, Domain]:
        """Return the source and, unless ``target`` is None, the target."""
        name, layout = self._read("source")
        if self.target is None:
            return {"source": self.split_domain(name, layout)}
        if self.target.get("root") is None and self.target.get("domain") is None:
            return self.data.synthetic(name, layout)
        target_name, target = self._read("target")
        self.data.check_apart(layout, target)
        setting = "data.target.domain" if self.data.has_domains else "data.target.root"
        target = target.renumbered(layout.classes, setting, self.on_problem)
        source = self.split_domain(name, layout)
        return {"source": source, "target": self.split_target(target_name, target)}

    def _read(self, domain: str) -> tuple[str, Layout]:
        name, layout = self.data.read(domain, self.node(domain))
        if self.classes is not None:
            layout = layout.only(self.classes, f"the {domain} ({name})", self.on_problem)
        return name, self.data.load_samples(layout)

    def split_domain(self, name: str, layout: Layout) -> Domain:
        """Return a domain with splits; those that the layout does not have are held out."""
        layout = layout.with_test(self.test_fraction, self.on_problem)
        layout = layout.with_val(self.val_fraction, self.on_problem)
        assert layout.val is not None
        assert layout.test is not None
        return Domain(name, layout.classes, layout.train, layout.val, layout.test, layout.note)

    def split_target(self, name: str, layout: Layout) -> Domain:
        """Return the target with splits, and with its few labelled samples if there are any."""
        domain = self.split_domain(name, layout)
        if self.transductive:
            whole = layout.whole()
            note = "transductive: training (without labels) and testing use all target samples"
            domain = replace(domain, train=whole, test=whole, note=note)
        count = self.node("target").get("labelled_per_class") or 0
        return with_labelled(domain, count, self.transductive) if count else domain


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
