"""Source and optional target read from their settings, for images and texts on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from tl_lightning.data.domain import Domain
from tl_lightning.data.io.folders import OnProblem, raise_problem
from tl_lightning.data.layout import Layout
from tl_lightning.data.splits import with_labelled
from tl_lightning.errors import DataError, nearest

__all__ = ["SourceTargetMixin", "only_keys"]

SOURCE_KEYS = {"root", "domain"}


class SourceTargetMixin:
    """Mixin that finds the domains of a data module from the settings of source and target.

    Args:
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
        kwargs: See :class:`TransferDataModule`.
    """

    name: Any
    gives: ClassVar[str]
    #: Whether ``source.domain`` and ``target.domain`` can be set.
    has_domains: ClassVar[bool] = False
    #: Whether a ``target`` with only empty values means no target. It allows overrides such as
    #: ``data.target.root=...``, which Hydra rejects if ``target`` is null.
    target_optional: ClassVar[bool] = False
    #: The ``data`` option with domains, suggested in errors.
    other_data: ClassVar[str] = "domains"
    #: Keys allowed in ``target``.
    target_keys: ClassVar[frozenset[str]] = frozenset({"root", "domain", "labelled_per_class"})

    def __init__(
        self,
        *,
        root: str,
        val_fraction: float,
        test_fraction: float,
        classes: Sequence[str] | None,
        transductive: bool,
        source: Mapping[str, Any],
        target: Mapping[str, Any] | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.on_problem: OnProblem = raise_problem
        only_keys("data.source", source, SOURCE_KEYS)
        only_keys("data.target", target or {}, set(self.target_keys))
        for role, node in (("source", source), ("target", target or {})):
            if node.get("domain") is not None and not self.has_domains:
                raise DataError(
                    f"data.{role}.domain={node['domain']}, but data={self.name} has one domain; "
                    f"set data.{role}.domain=null, or data={self.other_data} for folders "
                    "<domain>/<class>/<file>"
                )
        self.root = root
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.only_classes = classes
        self.transductive = transductive
        self.source = source
        self.target = None if self.no_target(target) else target

    @classmethod
    def no_target(cls, target: Mapping[str, Any] | None) -> bool:
        """Return whether these settings of ``target`` mean no target."""
        if target is None:
            return True
        return cls.target_optional and not any(target.get(key) for key in cls.target_keys)

    # -- implemented by datasets -------------------------------------------------------------
    def read(self, role: str, node: Mapping[str, Any]) -> tuple[str, Layout]:
        """Return the name and the layout of one domain without opening its samples.

        Args:
            role: ``source`` or ``target``.
            node: The settings of the domain, see the class.

        Raises:
            DataError: If the domain cannot be read; recoverable problems are passed to
                ``self.on_problem``.
        """
        raise NotImplementedError

    def base(self, role: str, node: Mapping[str, Any]) -> tuple[str, str]:
        """Return the folder to search for a domain, and the key that sets it."""
        own = node.get("root")
        return (self.root, "data.root") if own is None else (str(own), f"data.{role}.root")

    def synthetic(self, name: str, layout: Layout) -> Mapping[str, Domain]:
        """Return the domains for a target with neither a root nor a domain."""
        raise NotImplementedError

    # -- shared by all datasets --------------------------------------------------------------
    def domains(self) -> Mapping[str, Domain]:
        """Return the source and, unless ``target`` is None, the target."""
        name, layout = self._read("source", self.source)
        if self.target is None:
            return {"source": self._domain(name, layout)}
        if self.target.get("root") is None and self.target.get("domain") is None:
            return self.synthetic(name, layout)
        target_name, target = self._read("target", self.target)
        self.apart(layout, target)
        setting = "data.target.domain" if self.has_domains else "data.target.root"
        target = target.renumbered(layout.classes, setting, self.on_problem)
        return {"source": self._domain(name, layout), "target": self._target(target_name, target)}

    def apart(self, source: Layout, target: Layout) -> None:
        """Report samples that are in both domains."""
        if shared := sorted(set(source.paths()) & set(target.paths())):
            self.on_problem(
                f"data.source and data.target both contain {shared[0]} (and {len(shared) - 1} more "
                f"{self.gives}); set another data.target.root or data.target.domain, or leave both "
                "null for a synthetic shift"
            )

    def _read(self, role: str, node: Mapping[str, Any]) -> tuple[str, Layout]:
        name, layout = self.read(role, node)
        if self.only_classes is not None:
            layout = layout.only(self.only_classes, f"the {role} ({name})", self.on_problem)
        return name, layout

    def _domain(self, name: str, layout: Layout) -> Domain:
        layout = layout.with_test(self.test_fraction, self.on_problem)
        layout = layout.with_val(self.val_fraction, self.on_problem)
        assert layout.val is not None
        assert layout.test is not None
        return Domain(name, layout.classes, layout.train, layout.val, layout.test, layout.note)

    def _target(self, name: str, layout: Layout) -> Domain:
        assert self.target is not None
        domain = self._domain(name, layout)
        if self.transductive:
            whole = layout.whole()
            note = "transductive: training (without labels) and testing use all target samples"
            domain = replace(domain, train=whole, test=whole, note=note)
        count = self.target.get("labelled_per_class") or 0
        return with_labelled(domain, count, self.transductive) if count else domain


def only_keys(key: str, given: Mapping[str, Any], known: set[str], every: bool = False) -> None:
    """Check the keys of a mapping.

    Raises:
        DataError: If a key is unknown or, with ``every``, a known key is missing.
    """
    for name in given:
        if name not in known:
            raise DataError(f"{key} has no key {name!r}; {nearest(str(name), known)}")
    missing = sorted(known - set(given))
    if every and missing:
        raise DataError(f"{key} lacks {', '.join(missing)}; set {key}.{missing[0]}=<value>")
