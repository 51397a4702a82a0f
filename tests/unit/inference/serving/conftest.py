"""A small trained model of images, shared by the tests of serving."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import file_config
from layouts import split_folders
from serving import COLOURS
from tl_lightning.inference.predictor import Predictor
from tl_lightning.training import fit as training


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run on images of one colour per class."""
    folder = tmp_path_factory.mktemp("demo")
    root = split_folders(folder / "data", train=8, test=3)
    colours = dict(
        zip(sorted(path.name for path in (root / "train").iterdir()), COLOURS, strict=True)
    )
    for file in root.rglob("*.*"):
        pixels = np.full((24, 20, 3), colours[file.parent.name], np.uint8)
        pixels[::3, ::4] = np.random.default_rng(len(file.name)).integers(0, 256, 3)
        Image.fromarray(pixels).save(file)
    training.fit(file_config(root, "model=source_only", "data.target=null"), folder / "run")
    return folder / "run"


@pytest.fixture(scope="session")
def predictor(run: Path) -> Predictor:
    return Predictor.open(run)
