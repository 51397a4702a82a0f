"""IMDb reviews: 25,000 films' reviews for training and as many for testing, good or bad.

A. L. Maas, R. E. Daly, P. T. Pham, D. Huang, A. Y. Ng and C. Potts, "Learning Word Vectors for
Sentiment Analysis", ACL 2011.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tl_lightning.data.datamodules.text import TextData
from tl_lightning.data.io.download import download as get
from tl_lightning.data.io.download import extract, find_or_fetch
from tl_lightning.data.io.folders import find_root
from tl_lightning.data.io.texts import scan_texts
from tl_lightning.data.layout import Layout, read_layout

__all__ = ["Imdb", "fetch"]

URL = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
CHECKSUM = "md5:7c2ac02c03563afcf9b574c7e56c153a"
FOLDER = "aclImdb"
CLASSES = ("neg", "pos")
WHAT = "IMDb reviews ({train,test}/{neg,pos}/*.txt)"


class Imdb(TextData):
    """IMDb reviews, alone or to another folder of ``neg`` and ``pos``.

    Args:
        download: Whether to fetch the official archive (84 MB) if ``root`` does not hold it.
        kwargs: As in :class:`TextData`.
    """

    def __init__(self, *, download: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.download = download

    def read(self, role: str, node: Mapping[str, Any]) -> tuple[str, Layout]:
        """Return the reviews, or the texts of the target's own folder."""
        root, setting = self.base(role, node)
        names = ("aclImdb", "imdb", "IMDB")
        scan = partial(scan_texts, only=CLASSES)  # train/unsup has no labels
        if role == "target":
            what = "<class>/*.txt or {train,test}/<class>/*.txt with the classes neg and pos"
            found = find_root(root, names, what, _is_any, setting=setting)
            return found.name, read_layout(found, setting, self.complain, scan)
        found = find_or_fetch(
            lambda way_out: find_root(
                root, names, WHAT, _is_dataset, setting=setting, otherwise=way_out
            ),
            lambda: fetch(Path(root).expanduser().absolute() / FOLDER),
            wanted=self.download,
            megabytes=84,
        )
        return "imdb", read_layout(found, setting, self.complain, scan)


def fetch(root: Path) -> Path:
    """Download the official archive and unpack it as ``root`` (if not done yet)."""
    if not root.is_dir():
        archive = get(
            URL,
            root.parent / Path(URL).name,
            checksum=CHECKSUM,
            size=None,
            elsewhere="another mirror of the Large Movie Review Dataset",
        )
        extract(archive, root, inside=FOLDER)
    return root


def _is_dataset(folder: Path) -> bool:
    return all((folder / s / name).is_dir() for s in ("train", "test") for name in CLASSES)


def _is_any(folder: Path) -> bool:
    return _is_dataset(folder) or all((folder / name).is_dir() for name in CLASSES)
