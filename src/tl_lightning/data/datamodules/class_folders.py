"""Custom images in class folders, with an optional second folder as the target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tl_lightning.data.datamodules.domain_folders import is_domain
from tl_lightning.data.datamodules.image_files import CLASS_FOLDERS, ImageFilesDataModule
from tl_lightning.data.io.folders import class_folders, find_root, has_splits, image_files
from tl_lightning.data.layout import Layout, read_layout
from tl_lightning.errors import DataError

__all__ = ["ClassFoldersDataModule"]


class ClassFoldersDataModule(ImageFilesDataModule):
    """A folder of class folders, alone or with a second one of the same classes as the target.

    Args:
        kwargs: See :class:`ImageFilesDataModule`; a ``target`` without values means no target.
    """

    target_optional = True

    def read(self, domain: str, node: Mapping[str, Any]) -> tuple[str, Layout]:
        """Return the images of a folder, which also names the domain.

        Raises:
            DataError: If the folder has no class folders, or folders of domains instead.
        """
        root, setting = self.pair.base(domain)
        found = find_root(
            root, (), CLASS_FOLDERS, lambda path: len(class_folders(path)) > 0, setting=setting
        )
        inner = class_folders(found)
        has_classes = has_splits(found) or any(map(image_files, inner))
        domains = [] if has_classes else [path.name for path in inner if is_domain(path)]
        if domains:
            raise DataError(
                f"{found} contains domains instead of classes: {', '.join(domains)}; set "
                f"data=domains data.source.domain={domains[0]}, or {setting}={found / domains[0]}"
            )
        return found.name, read_layout(found, setting, self.pair.on_problem)
