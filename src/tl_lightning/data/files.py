"""Pictures on disk as a source and a target: what every such data set shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from tl_lightning.data.dataset import Domain
from tl_lightning.data.folder import Complain, check_signatures, refuse
from tl_lightning.data.labelled import with_labelled
from tl_lightning.data.layout import Layout
from tl_lightning.data.pictures import PictureData
from tl_lightning.data.quarantine import without_unreadable
from tl_lightning.data.shift import SyntheticShift
from tl_lightning.errors import DataError, nearest

__all__ = ["FileData"]

SHIFT_KEYS = {"blur", "brightness", "saturation", "tint", "noise", "seed"}
SOURCE_KEYS = {"root", "domain"}
TARGET_KEYS = {"root", "domain", "labelled_per_class", "shift"}


class FileData(PictureData):
    """Pictures on disk; a data set is a subclass with :meth:`read`.

    With neither ``target.root`` nor ``target.domain`` the target is synthetic: of every class's
    training pictures the source has one half and the target the other, disjoint one under
    :class:`SyntheticShift`; the target's test pictures are the test pictures under the same shift.

    Args:
        root: The data set's folder or the one above it.
        val_fraction: Share of the training pictures held out for validation, where the folder
            does not say.
        test_fraction: Share held out for testing, likewise.
        classes: Names of the classes to use, or None for all.
        transductive: Whether the target trains (without labels) and tests on all of its pictures,
            as most of the literature on domain adaptation does; the report says so.
        on_error: ``stop`` at a picture that cannot be read, or ``skip`` such pictures: they are
            found before training, left out, and listed in the report; more than 1 % of them stop
            the run.
        source: ``{root, domain}``: another folder than ``root``, and which domain of it (or a
            list of several); None where the data set has no such thing.
        target: ``{root, domain, labelled_per_class, shift}``, or None for no target.
            ``labelled_per_class`` training pictures of every class keep their labels (0: none);
            ``shift`` holds the arguments of :class:`SyntheticShift`. Keys may lack.
        kwargs: As in :class:`PictureData`.
    """

    #: Whether ``source.domain`` and ``target.domain`` mean something.
    has_domains: ClassVar[bool] = False
    #: Whether a ``target`` that names nothing means no target, so that ``data.target.root=...``
    #: can be typed (Hydra refuses a key below null) where most users have no second domain.
    target_optional: ClassVar[bool] = False

    def __init__(
        self,
        *,
        root: str,
        val_fraction: float,
        test_fraction: float,
        classes: Sequence[str] | None,
        transductive: bool,
        on_error: Literal["stop", "skip"],
        source: Mapping[str, Any],
        target: Mapping[str, Any] | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.complain: Complain = refuse
        self.on_error = on_error
        _only("data.source", source, SOURCE_KEYS)
        _only("data.target", target or {}, TARGET_KEYS)
        for role, node in (("source", source), ("target", target or {})):
            if node.get("domain") is not None and not self.has_domains:
                raise DataError(
                    f"data.{role}.domain={node['domain']}, but data={self.name} has one domain; "
                    f"type data.{role}.domain=null, or data=domains for folders domain/class/file"
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
        return cls.target_optional and not any(target.get(key) for key in TARGET_KEYS)

    # -- what a data set says ----------------------------------------------------------------
    def read(self, role: str, node: Mapping[str, Any]) -> tuple[str, Layout]:
        """Return the name and the pictures of one domain; opens no picture.

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

    # -- what they share ---------------------------------------------------------------------
    def screened(self, found: dict[str, Domain]) -> dict[str, Domain]:
        """Refuse files that are no pictures; with ``on_error=skip`` leave out unreadable ones."""
        if self.on_error == "stop":
            for role, domain in found.items():
                node = (self.source if role == "source" else self.target) or {}
                check_signatures(domain.paths(), setting=self.base(role, node)[1])
            return found
        kept = {}
        for role, domain in found.items():
            kept[role], left_out = without_unreadable(domain)
            if left_out:
                self.quarantined[role] = left_out
        return kept

    def domains(self) -> Mapping[str, Domain]:
        """Return the source and, unless ``target`` is None, the target."""
        name, layout = self._read("source", self.source)
        if self.target is None:
            return {"source": self._domain(name, layout)}
        if self.target.get("root") is None and self.target.get("domain") is None:
            return self._synthetic(name, layout, self.target.get("shift"))
        target_name, target = self._read("target", self.target)
        if shared := sorted(set(layout.paths()) & set(target.paths())):
            self.complain(
                f"data.source and data.target both hold {shared[0]} (and {len(shared) - 1} more): "
                "the same pictures in both domains; type another data.target.root or "
                "data.target.domain, or leave both null for a synthetic shift"
            )
        setting = "data.target.domain" if self.has_domains else "data.target.root"
        target = target.renumbered(layout.classes, setting, self.complain)
        return {"source": self._domain(name, layout), "target": self._target(target_name, target)}

    def _read(self, role: str, node: Mapping[str, Any]) -> tuple[str, Layout]:
        name, layout = self.read(role, node)
        if self.only_classes is not None:
            layout = layout.only(self.only_classes, f"the {role} ({name})", self.complain)
        return name, layout

    def _synthetic(self, name: str, layout: Layout, arguments: Any) -> Mapping[str, Domain]:
        if arguments is None:
            settings = "data.target.root, data.target.domain and data.target.shift are"
            if not self.has_domains:
                settings = "data.target.root and data.target.shift are both"
            raise DataError(
                f"{settings} null: the target would look exactly like the source; "
                f"type data.target.{'domain=<name>' if self.has_domains else 'root=/a/folder'}, "
                "give data.target.shift its keys, or type data.target=null for no target"
            )
        _only("data.target.shift", arguments, SHIFT_KEYS, every=True)
        shift = SyntheticShift(**arguments)
        first, second = layout.with_test(self.test_fraction, self.complain).halves()
        source = self._domain(name, first)
        target = self._target(
            f"{name}_synthetic", second.map(lambda split: replace(split, change=shift))
        )
        note = (
            f"{shift.describe()}; not a real domain: source and target train on disjoint halves of "
            f"every class, and the target's test pictures are the source's under the shift"
        )
        note = "; ".join(part for part in (note, target.note) if part)
        return {"source": source, "target": replace(target, note=note)}

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


def _only(key: str, given: Mapping[str, Any], known: set[str], every: bool = False) -> None:
    for name in given:
        if name not in known:
            raise DataError(f"{key} has no key {name!r}; {nearest(str(name), known)}")
    lacking = sorted(known - set(given))
    if every and lacking:
        raise DataError(f"{key} lacks {', '.join(lacking)}; type {key}.{lacking[0]}=<value>")
