"""A source and perhaps a target, read by their settings: what pictures and texts on disk share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from tl_lightning.data.domain import Domain
from tl_lightning.data.io.folders import Complain, refuse
from tl_lightning.data.layout import Layout
from tl_lightning.data.splits import with_labelled
from tl_lightning.errors import DataError, nearest

__all__ = ["Roles", "only_keys"]

SOURCE_KEYS = {"root", "domain"}


class Roles:
    """The part of a data module that finds its domains by the settings of source and target.

    Args:
        root: The data set's folder or the one above it.
        val_fraction: Share of the training samples held out for validation, where the folder
            does not say.
        test_fraction: Share held out for testing, likewise.
        classes: Names of the classes to use, or None for all.
        transductive: Whether the target trains (without labels) and tests on all of its samples,
            as most of the literature on domain adaptation does; the report says so.
        source: ``{root, domain}``: another folder than ``root``, and which domain of it (or a
            list of several); None where the data set has no such thing.
        target: ``target_keys``, or None for no target. ``labelled_per_class`` training samples of
            every class keep their labels (0: none). Keys may lack.
        kwargs: As in :class:`TransferData`.
    """

    name: Any
    gives: ClassVar[str]
    #: Whether ``source.domain`` and ``target.domain`` mean something.
    has_domains: ClassVar[bool] = False
    #: Whether a ``target`` that names nothing means no target, so that ``data.target.root=...``
    #: can be typed (Hydra refuses a key below null) where most users have no second domain.
    target_optional: ClassVar[bool] = False
    #: The choice of ``data`` that has domains, for an error.
    other_data: ClassVar[str] = "domains"
    #: What ``target`` may hold.
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
        self.complain: Complain = refuse
        only_keys("data.source", source, SOURCE_KEYS)
        only_keys("data.target", target or {}, set(self.target_keys))
        for role, node in (("source", source), ("target", target or {})):
            if node.get("domain") is not None and not self.has_domains:
                raise DataError(
                    f"data.{role}.domain={node['domain']}, but data={self.name} has one domain; "
                    f"type data.{role}.domain=null, or data={self.other_data} for folders "
                    "domain/class/file"
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
        """Return whether these settings of ``target`` mean that there is none."""
        if target is None:
            return True
        return cls.target_optional and not any(target.get(key) for key in cls.target_keys)

    # -- what a data set says ----------------------------------------------------------------
    def read(self, role: str, node: Mapping[str, Any]) -> tuple[str, Layout]:
        """Return the name and the samples of one domain; opens no picture.

        Args:
            role: ``source`` or ``target``.
            node: Its settings, see the class.

        Raises:
            DataError: If there is nothing to go on with; lesser faults go to ``self.complain``.
        """
        raise NotImplementedError

    def base(self, role: str, node: Mapping[str, Any]) -> tuple[str, str]:
        """Return the folder that a domain is looked for in and the setting that says so."""
        own = node.get("root")
        return (self.root, "data.root") if own is None else (str(own), f"data.{role}.root")

    def synthetic(self, name: str, layout: Layout) -> Mapping[str, Domain]:
        """Return the domains where the target names neither a folder nor a domain."""
        raise NotImplementedError

    # -- what they share ---------------------------------------------------------------------
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
        target = target.renumbered(layout.classes, setting, self.complain)
        return {"source": self._domain(name, layout), "target": self._target(target_name, target)}

    def apart(self, source: Layout, target: Layout) -> None:
        """Complain of what is in both domains."""
        if shared := sorted(set(source.paths()) & set(target.paths())):
            self.complain(
                f"data.source and data.target both hold {shared[0]} (and {len(shared) - 1} more): "
                f"the same {self.gives} in both domains; type another data.target.root or "
                "data.target.domain, or leave both null for a synthetic shift"
            )

    def _read(self, role: str, node: Mapping[str, Any]) -> tuple[str, Layout]:
        name, layout = self.read(role, node)
        if self.only_classes is not None:
            layout = layout.only(self.only_classes, f"the {role} ({name})", self.complain)
        return name, layout

    def _domain(self, name: str, layout: Layout) -> Domain:
        layout = layout.with_test(self.test_fraction, self.complain)
        layout = layout.with_val(self.val_fraction, self.complain)
        assert layout.val is not None
        assert layout.test is not None
        return Domain(name, layout.classes, layout.train, layout.val, layout.test, layout.note)

    def _target(self, name: str, layout: Layout) -> Domain:
        assert self.target is not None
        domain = self._domain(name, layout)
        if self.transductive:
            whole = layout.whole()
            note = "transductive: the target trains (without labels) and is tested on all of it"
            domain = replace(domain, train=whole, test=whole, note=note)
        count = self.target.get("labelled_per_class") or 0
        return with_labelled(domain, count, self.transductive) if count else domain


def only_keys(key: str, given: Mapping[str, Any], known: set[str], every: bool = False) -> None:
    """Refuse a mapping with other keys than the known ones, or without ``every`` one of them.

    Raises:
        DataError: If there are such.
    """
    for name in given:
        if name not in known:
            raise DataError(f"{key} has no key {name!r}; {nearest(str(name), known)}")
    lacking = sorted(known - set(given))
    if every and lacking:
        raise DataError(f"{key} lacks {', '.join(lacking)}; type {key}.{lacking[0]}=<value>")
