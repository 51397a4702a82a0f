"""Texts in class folders, alone, with a second such folder, or in folders of domains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from tl_lightning.data.datamodules.domain_folders import asked_domains, is_domain, refuse_shared
from tl_lightning.data.datamodules.text import TextData
from tl_lightning.data.io.folders import class_folders
from tl_lightning.data.io.texts import scan_texts
from tl_lightning.data.layout import Layout, pooled, read_layout
from tl_lightning.errors import DataError

__all__ = ["TextDomains", "TextFolder"]


class TextFolder(TextData):
    """``<class>/*.txt`` or ``{train,val,test}/<class>/*.txt``.

    Args:
        kwargs: As in :class:`TextData`.
    """

    def read(self, role: str, node: Mapping[str, Any]) -> tuple[str, Layout]:
        """Return the texts of one folder."""
        place, setting = self.base(role, node)
        folder = _folder(place, setting)
        layout = read_layout(folder, setting, self.complain, scan_texts)
        return (str(self.name) if role == "source" else folder.name), layout


class TextDomains(TextData):
    """``<domain>/<class>/*.txt``: any domain to any other.

    Args:
        kwargs: As in :class:`TextData`. ``domain`` is a name or a list of several.
    """

    has_domains: ClassVar[bool] = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.taken: list[Path] = []

    def read(self, role: str, node: Mapping[str, Any]) -> tuple[str, Layout]:
        """Return the asked domain, or several as one."""
        place, setting = self.base(role, node)
        folder = _folder(place, setting)
        places = {path.name: path for path in class_folders(folder)}
        valid = [name for name, path in places.items() if is_domain(path)]
        if not valid:
            raise DataError(
                f"{setting}={place} holds no domains; expected {folder}/<domain>/<class>/<text>"
                f".txt; type {setting}=/the/right/folder, or data=text_folder for one domain"
            )
        names = asked_domains(node.get("domain"), f"data.{role}.domain", valid, places, str(folder))
        chosen = [places[name] for name in names]
        if role == "source":
            self.taken = chosen
        elif shared := [path.name for path in chosen if path in self.taken]:
            refuse_shared(shared[0], [name for name in valid if name not in shared])
        layouts = {
            path.name: read_layout(path, setting, self.complain, scan_texts) for path in chosen
        }
        return "+".join(names), pooled(layouts, self.complain)


def _folder(place: str, setting: str) -> Path:
    folder = Path(place).expanduser().absolute()
    if not folder.is_dir():
        raise DataError(f"{setting}={place} is no folder; type {setting}=/my/texts")
    return folder
