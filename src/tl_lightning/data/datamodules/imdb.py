"""IMDb movie reviews: 25,000 for training and 25,000 for testing, positive or negative.

A. L. Maas, R. E. Daly, P. T. Pham, D. Huang, A. Y. Ng and C. Potts, "Learning Word Vectors for
Sentiment Analysis", ACL 2011.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tl_lightning.data.datamodules.text import TextDataModule
from tl_lightning.data.io.download import download as get
from tl_lightning.data.io.download import extract, find_or_fetch
from tl_lightning.data.io.folders import find_root
from tl_lightning.data.io.texts import scan_texts
from tl_lightning.data.layout import Layout, read_layout

__all__ = ["IMDbDataModule", "fetch"]

URL = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
CHECKSUM = "md5:7c2ac02c03563afcf9b574c7e56c153a"
FOLDER = "aclImdb"
CLASSES = ("neg", "pos")
WHAT = "IMDb reviews ({train,test}/{neg,pos}/*.txt)"


class IMDbDataModule(TextDataModule):
    """IMDb reviews, alone or with another folder of ``neg`` and ``pos`` as the target.

    Args:
        download: Whether to download the official archive (84 MB) if it is not found.
        kwargs: See :class:`TextDataModule`.
    """

    def __init__(self, *, download: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.download = download

    def read(self, domain: str, node: Mapping[str, Any]) -> tuple[str, Layout]:
        """Return the reviews of the source, or the texts in the target folder."""
        root, setting = self.pair.base(domain)
        names = ("aclImdb", "imdb", "IMDB")
        scan = partial(scan_texts, only=CLASSES)  # train/unsup has no labels
        if domain == "target":
            what = "<class>/*.txt or {train,test}/<class>/*.txt with the classes neg and pos"
            found = find_root(root, names, what, _is_any, setting=setting)
            return found.name, read_layout(found, setting, self.pair.on_problem, scan)
        found = find_or_fetch(
            lambda hint: find_root(root, names, WHAT, _is_dataset, setting=setting, otherwise=hint),
            lambda: fetch(Path(root).expanduser().absolute() / FOLDER),
            wanted=self.download,
            megabytes=84,
        )
        return "imdb", read_layout(found, setting, self.pair.on_problem, scan)


def fetch(root: Path) -> Path:
    """Download the official archive and extract it to ``root``, unless that exists."""
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
