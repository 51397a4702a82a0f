"""Base data module of images on disk: unreadable images and synthetic targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from tl_lightning.data.datamodules.image import ImageDataModule
from tl_lightning.data.datamodules.source_target import SourceTargetMixin, only_keys
from tl_lightning.data.domain import Domain
from tl_lightning.data.io.folders import check_signatures
from tl_lightning.data.io.unreadable import without_unreadable
from tl_lightning.data.layout import Layout
from tl_lightning.data.transforms.shift import SyntheticShift
from tl_lightning.errors import DataError

__all__ = ["ImageFilesDataModule"]

SHIFT_KEYS = {"blur", "brightness", "saturation", "tint", "noise", "seed"}


class ImageFilesDataModule(SourceTargetMixin, ImageDataModule):
    """Images on disk; subclasses implement :meth:`read`.

    With neither ``target.root`` nor ``target.domain`` the target is synthetic: the training images
    of every class are split into disjoint halves for source and target, and all images of the
    target, including the shared test images, are transformed by :class:`SyntheticShift`.

    Args:
        on_error: ``stop`` at an unreadable image, or ``skip`` unreadable images: they are found
            before training, removed and listed in the report; more than 1 % of them is an error.
        kwargs: See :class:`SourceTargetMixin` and :class:`ImageDataModule`. ``target`` may also
            contain ``shift``, the arguments of :class:`SyntheticShift`.
    """

    target_keys: ClassVar[frozenset[str]] = SourceTargetMixin.target_keys | {"shift"}

    def __init__(self, *, on_error: Literal["stop", "skip"], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.on_error = on_error

    def screened(self, found: dict[str, Domain]) -> dict[str, Domain]:
        """Raise DataError for files that are not images, or skip unreadable ones."""
        if self.on_error == "stop":
            for role, domain in found.items():
                node = (self.source if role == "source" else self.target) or {}
                check_signatures(domain.paths(), setting=self.base(role, node)[1])
            return found
        kept = {}
        for role, domain in found.items():
            kept[role], left_out = without_unreadable(domain)
            if left_out:
                self.unreadable[role] = left_out
        return kept

    def synthetic(self, name: str, layout: Layout) -> Mapping[str, Domain]:
        """Return two halves of the dataset, the target one with the configured shift."""
        assert self.target is not None
        arguments = self.target.get("shift")
        if arguments is None:
            settings = "data.target.root, data.target.domain and data.target.shift are all"
            if not self.has_domains:
                settings = "data.target.root and data.target.shift are both"
            raise DataError(
                f"{settings} null, so the target would not differ from the source; "
                f"set data.target.{'domain=<name>' if self.has_domains else 'root=/a/folder'}, "
                "set the keys of data.target.shift, or set data.target=null for no target"
            )
        only_keys("data.target.shift", arguments, SHIFT_KEYS, every=True)
        shift = SyntheticShift(**arguments)
        first, second = layout.with_test(self.test_fraction, self.on_problem).halves()
        source = self._domain(name, first)
        target = self._target(
            f"{name}_synthetic", second.map(lambda split: replace(split, change=shift))
        )
        note = (
            f"{shift.describe()}; not a real domain: source and target are trained on disjoint "
            "halves of every class, and tested on the same images without and with the shift"
        )
        note = "; ".join(part for part in (note, target.note) if part)
        return {"source": source, "target": replace(target, note=note)}
