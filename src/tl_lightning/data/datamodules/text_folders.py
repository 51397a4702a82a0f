"""Texts in <class> or <domain>/<class> folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from tl_lightning.data.datamodules.domain_folders import (
    asked_domains,
    is_domain,
    named_or_others,
    refuse_shared,
)
from tl_lightning.data.datamodules.text import TextDataModule
from tl_lightning.data.io.folders import class_folders
from tl_lightning.data.io.texts import scan_texts, text_files
from tl_lightning.data.layout import Layout, pooled, read_layout
from tl_lightning.errors import DataError

__all__ = ["TextDomainsDataModule", "TextFoldersDataModule"]


class TextFoldersDataModule(TextDataModule):
    """Texts as ``<class>/*.txt`` or ``{train,val,test}/<class>/*.txt``.

    Args:
        kwargs: See :class:`TextDataModule`.
    """

    def read(self, domain: str, node: Mapping[str, Any]) -> tuple[str, Layout]:
        """Return the texts of one folder."""
        root, setting = self.pair.base(domain)
        folder = _folder(root, setting)
        layout = read_layout(folder, setting, self.pair.on_problem, scan_texts)
        return (str(self.name) if domain == "source" else folder.name), layout


class TextDomainsDataModule(TextDataModule):
    """Texts as ``<domain>/<class>/*.txt``.

    Args:
        kwargs: See :class:`TextDataModule`. ``domain`` is a name or a list of names.
    """

    has_domains: ClassVar[bool] = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.taken: list[Path] = []

    def read(self, domain: str, node: Mapping[str, Any]) -> tuple[str, Layout]:
        """Return the requested domain, or several merged into one."""
        root, setting = self.pair.base(domain)
        base = _folder(root, setting)
        folders = {path.name: path for path in class_folders(base)}
        # The texts of a target may be directly in the folder of the domain.
        bare = text_files if domain == "target" else is_domain
        valid = [name for name, path in folders.items() if is_domain(path) or bare(path)]
        if not valid:
            raise DataError(
                f"{setting}={root} contains no domains; expected {base}/<domain>/<class>/<text>"
                f".txt; set {setting}=/the/right/folder, or data=text_folder for one domain"
            )
        asked = named_or_others(domain, node, valid, self.pair.node("target"))
        names = asked_domains(asked, f"data.{domain}.domain", valid, folders, str(base))
        chosen = [folders[name] for name in names]
        if domain == "source":
            self.taken = chosen
        elif shared := [path.name for path in chosen if path in self.taken]:
            refuse_shared(shared[0], [name for name in valid if name not in shared])
        layouts = {path.name: self._layout(domain, path, setting) for path in chosen}
        return "+".join(names), pooled(layouts, self.pair.on_problem, node.get("domain"))

    def _layout(self, domain: str, path: Path, setting: str) -> Layout:
        if domain == "target":
            found = self.pair.without_labels(path, "data.target.domain")
            if found is not None:
                return found
        return read_layout(path, setting, self.pair.on_problem, scan_texts)


def _folder(root: str, setting: str) -> Path:
    folder = Path(root).expanduser().absolute()
    if not folder.is_dir():
        raise DataError(f"{setting}={root} is not a folder; set {setting}=/my/texts")
    return folder
