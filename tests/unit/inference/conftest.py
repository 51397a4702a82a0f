"""A small model of images, shared by the tests of predictions."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers import file_config
from layouts import image, split_folders
from tl_lightning.training import fit as training


@pytest.fixture(scope="package")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the folder ``run`` of a finished run."""
    folder = tmp_path_factory.mktemp("trained")
    root = split_folders(folder / "dogs", train=6, test=2)
    training.fit(file_config(root, "model=source_only", "data.target=null"), folder / "run")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with 41 images and a file that is none."""
    root = tmp_path_factory.mktemp("photos")
    for index in range(41):
        image(root / f"{index:02d}.png", index)
    (root / "07a.png").write_text("text")
    return root
