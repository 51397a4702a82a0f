"""A folder of class folders as the source, and another one as the target: anybody's pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tl_lightning.data.datamodules.domain_folders import is_domain
from tl_lightning.data.datamodules.image_files import FileData
from tl_lightning.data.io.folders import class_folders, find_root, picture_files
from tl_lightning.data.layout import Layout, read_layout
from tl_lightning.errors import DataError

__all__ = ["ClassFolders"]

WHAT = "a folder of class folders (<class>/*.jpg, or {train,val,test}/<class>/*.jpg)"


class ClassFolders(FileData):
    """One folder of class folders, alone or to another one with the same classes.

    Args:
        kwargs: As in :class:`FileData`. A ``target`` without root and shift is no target.
    """

    target_optional = True

    def read(self, role: str, node: Mapping[str, Any]) -> tuple[str, Layout]:
        """Return the folder's pictures; its own name is the domain's.

        Raises:
            DataError: If there are no class folders, or domains in their place.
        """
        root, setting = self.base(role, node)
        found = find_root(
            root, (), WHAT, lambda path: len(class_folders(path)) > 0, setting=setting
        )
        inner = class_folders(found)
        plain = class_folders(found / "train") or any(map(picture_files, inner))
        domains = [] if plain else [path.name for path in inner if is_domain(path)]
        if domains:
            raise DataError(
                f"{found} holds no classes but folders of them: {', '.join(domains)}; type "
                f"data=domains data.source.domain={domains[0]}, or {setting}={found / domains[0]}"
            )
        return found.name, read_layout(found, setting, self.complain)
