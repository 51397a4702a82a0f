"""Base data module of images on disk: unreadable images and synthetic targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from tl_lightning.config.hints import above
from tl_lightning.data.checks.ignored import not_taken
from tl_lightning.data.datamodules.image import ImageDataModule
from tl_lightning.data.datamodules.source_target import SourceTarget, TestSplit, only_keys
from tl_lightning.data.domain import Domain
from tl_lightning.data.io.depth import deep_images, white_among
from tl_lightning.data.io.folders import (
    OnProblem,
    check_signatures,
    class_folders,
    find_root,
    image_files,
    scan_classes,
)
from tl_lightning.data.io.unreadable import without_unreadable
from tl_lightning.data.layout import Layout
from tl_lightning.data.transforms.shift import SyntheticShift
from tl_lightning.data.unlabelled import same_samples
from tl_lightning.errors import DataError

__all__ = ["CLASS_FOLDERS", "ImageFilesDataModule"]

CLASS_FOLDERS = "a folder of class folders (<class>/*.jpg, or {train,val,test}/<class>/*.jpg)"
SHIFT_KEYS = {"blur", "brightness", "saturation", "tint", "noise", "seed"}


class ImageFilesDataModule(ImageDataModule):
    """Images on disk; subclasses implement :meth:`read`.

    With neither ``target.root`` nor ``target.domain`` the target is synthetic: the training images
    of every class are split into disjoint halves for source and target, and all images of the
    target, including the shared test images, are transformed by :class:`SyntheticShift`.

    Args:
        on_error: ``stop`` at an unreadable image, or ``skip`` unreadable images: they are found
            before training, removed and listed in the report; more than 1 % of them is an error,
            or in small sets more than 3 or a tenth.
        max_value: Value that is shown as white in images of more than 8 bits per channel, or
            ``auto`` for 1 or the maximum of 8, 10, 12, 14 or 16 bits, the smallest that no image
            exceeds. It is the same for all images of a run, and stored in checkpoints.
        root, val_fraction, test_fraction, test_split, classes, transductive, source, target,
            labelled_per_class: See :class:`SourceTarget`. ``target`` may also contain ``shift``,
            the arguments of :class:`SyntheticShift`.
        kwargs: See :class:`ImageDataModule`.
    """

    target_keys: ClassVar[frozenset[str]] = frozenset(
        {"root", "domain", "labels", "classes", "test", "labelled_per_class", "shift"}
    )
    #: The ``data`` option with domains, suggested in errors.
    other_data: ClassVar[str] = "domains"
    #: Whether the images are in folders, not in a table.
    in_folders: ClassVar[bool] = True

    def __init__(
        self,
        *,
        on_error: Literal["stop", "skip"],
        max_value: Annotated[float, above(0)] | Literal["auto"],
        root: str,
        val_fraction: float,
        test_fraction: float,
        test_split: TestSplit,
        classes: Sequence[str] | None,
        transductive: bool,
        source: Mapping[str, Any],
        target: Mapping[str, Any] | None,
        labelled_per_class: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.on_error = on_error
        self.max_value = max_value
        #: The domains before unreadable images were skipped, and notes on what is in neither.
        self.listed: Mapping[str, Domain] = {}
        self.not_used: list[str] | None = None
        self.pair = SourceTarget(
            self, root=root, val_fraction=val_fraction, test_fraction=test_fraction,
            test_split=test_split, classes=classes, transductive=transductive, source=source,
            target=target, labelled_per_class=labelled_per_class,
        )  # fmt: skip

    def read(self, domain: str, node: Mapping[str, Any]) -> tuple[str, Layout]:
        """Return the name and the layout of one domain; see :class:`DomainReader`."""
        raise NotImplementedError

    def list_files(self, folder: Path) -> list[Path]:
        """Return the images directly in a folder."""
        return image_files(folder)

    def scan(self, folder: Path, **kwargs: Any) -> dict[str, list[Path]]:
        """Return the images of every class folder."""
        return scan_classes(folder, **kwargs)

    def has_own_layout(self, folder: Path) -> bool:
        """Return whether a folder has labels although none of its folders is named as a class."""
        return False

    def read_test(self, place: str) -> Layout:
        """Return the images of ``data.target.test``, a folder of class folders."""
        root = find_root(
            place, (), CLASS_FOLDERS, lambda path: len(class_folders(path)) > 0,
            setting="data.target.test",
        )  # fmt: skip
        return self.pair.folders.read_labelled(root, "data.target.test")

    def load_samples(self, layout: Layout) -> Layout:
        """Return the layout unchanged: images are decoded while training."""
        return layout

    def domains(self) -> Mapping[str, Domain]:
        """Return the source and, if there is one, the target."""
        return self.pair.domains()

    def collect_problems(self, on_problem: OnProblem) -> None:
        """Pass problems that could be recovered from to a callback instead of raising them."""
        self.pair.on_problem = on_problem

    def check_apart(self, source: Layout, target: Layout) -> None:
        """Report images that are in both domains, also by a link."""
        if shared := same_samples(source, target):
            self.pair.on_problem(
                f"data.source and data.target both contain {shared[0]} (and {len(shared) - 1} more "
                "images); set another data.target.root or data.target.domain, or leave both null "
                "for a synthetic shift"
            )

    def remarks(self) -> list[str]:
        """Return what is odd about the samples, and which images in folders are not used."""
        if self.not_used is None:
            own = self.in_folders
            self.not_used = not_taken(self.listed, bool(self.only_tested)) if own else []
        return [*super().remarks(), *self.not_used]

    def without_unreadable(self, found: dict[str, Domain]) -> dict[str, Domain]:
        """Raise DataError for files that are not images, or skip unreadable ones."""
        self.listed = found
        if self.on_error == "stop":
            for name, domain in found.items():
                check_signatures(domain.paths(), setting=self.pair.base(name)[1])
            return self.scaled(found)
        kept = {}
        for name, domain in found.items():
            kept[name], left_out = without_unreadable(domain)
            if left_out:
                self.unreadable[name] = left_out
        return self.scaled(kept)

    def scaled(self, found: Mapping[str, Domain]) -> dict[str, Domain]:
        """Return the domains with one scale for all images of more than 8 bits."""
        on_disk = {k: d for k, d in found.items() if not isinstance(d.train.samples, np.ndarray)}
        deep = {name: deep_images(domain.paths()) for name, domain in on_disk.items()}
        if any(deep.values()) and "max_value" not in self.input_state:
            self.input_state["max_value"] = self._chosen_white(deep)
        white = self.input_state.get("max_value")
        return {name: domain.map(lambda split: replace(split, white=white))
                for name, domain in found.items()}  # fmt: skip

    def _chosen_white(self, deep: Mapping[str, Sequence[Path]]) -> float:
        """Return the value of white in deep images by domain."""
        if self.max_value != "auto":
            return float(self.max_value)
        every = {name: paths for name, paths in deep.items() if paths}
        # What is only tested has no part in the preprocessing, unless nothing else is deep.
        trained = {name: every[name] for name in every if name not in self.only_tested}
        each = {name: white_among(paths) for name, paths in (trained or every).items()}
        self.pixel_notes = [_scale_note(each)]
        return max(each.values())

    def synthetic(self, name: str, layout: Layout) -> Mapping[str, Domain]:
        """Return two halves of the dataset, the target one with the configured shift."""
        arguments = self.pair.node("target").get("shift")
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
        if "source" in self.only_tested:
            layout = replace(layout.only_tested(self.pair.test_split), note=layout.note)
        else:
            layout = layout.with_test(
                self.pair.test_fraction, self.pair.on_problem, self.pair.test_split
            )
        first, second = layout.halves()
        source = self.pair.split_domain(name, first)
        target = self.pair.split_target(
            f"{name}_synthetic", second.map(lambda split: replace(split, change=shift))
        )
        note = (
            f"{shift.describe()}; not a real domain: source and target are trained on disjoint "
            "halves of every class, and tested on the same images without and with the shift"
        )
        note = "; ".join(part for part in (note, target.note) if part)
        return {"source": source, "target": replace(target, note=note)}


def _scale_note(each: Mapping[str, float]) -> str:
    """Return what was found by ``data.max_value=auto``, the value of white of each domain."""
    note = (
        f"images of more than 8 bits per channel: {max(each.values()):g} is shown as white, as no "
        "value is larger (data.max_value=auto)"
    )
    if len(set(each.values())) == 1:
        return note
    values = ", ".join(f"{name} {value:g}" for name, value in each.items())
    return (
        f"{note}; the domains have different ranges ({values}), so that one is much darker: "
        "convert its images to 8 bits if their values mean the same brightness"
    )
