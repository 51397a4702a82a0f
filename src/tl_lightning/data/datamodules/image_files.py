"""Pictures on disk as a source and a target: what every such data set shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from tl_lightning.data.datamodules.image import PictureData
from tl_lightning.data.datamodules.source_target import Roles, only_keys
from tl_lightning.data.domain import Domain
from tl_lightning.data.io.folders import check_signatures
from tl_lightning.data.io.unreadable import without_unreadable
from tl_lightning.data.layout import Layout
from tl_lightning.data.transforms.shift import SyntheticShift
from tl_lightning.errors import DataError

__all__ = ["FileData"]

SHIFT_KEYS = {"blur", "brightness", "saturation", "tint", "noise", "seed"}


class FileData(Roles, PictureData):
    """Pictures on disk; a data set is a subclass with :meth:`read`.

    With neither ``target.root`` nor ``target.domain`` the target is synthetic: of every class's
    training pictures the source has one half and the target the other, disjoint one under
    :class:`SyntheticShift`; the target's test pictures are the test pictures under the same shift.

    Args:
        on_error: ``stop`` at a picture that cannot be read, or ``skip`` such pictures: they are
            found before training, left out, and listed in the report; more than 1 % of them stop
            the run.
        kwargs: As in :class:`Roles` and :class:`PictureData`. ``target`` may also hold ``shift``,
            the arguments of :class:`SyntheticShift`.
    """

    target_keys: ClassVar[frozenset[str]] = Roles.target_keys | {"shift"}

    def __init__(self, *, on_error: Literal["stop", "skip"], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.on_error = on_error

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

    def synthetic(self, name: str, layout: Layout) -> Mapping[str, Domain]:
        """Return two halves, one of them under the shift that the target's settings describe."""
        assert self.target is not None
        arguments = self.target.get("shift")
        if arguments is None:
            settings = "data.target.root, data.target.domain and data.target.shift are"
            if not self.has_domains:
                settings = "data.target.root and data.target.shift are both"
            raise DataError(
                f"{settings} null: the target would look exactly like the source; "
                f"type data.target.{'domain=<name>' if self.has_domains else 'root=/a/folder'}, "
                "give data.target.shift its keys, or type data.target=null for no target"
            )
        only_keys("data.target.shift", arguments, SHIFT_KEYS, every=True)
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
