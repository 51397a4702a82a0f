"""The model behind predictions, export and serving."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import file_config
from layouts import image, split_folders
from tl_lightning.data.domain import Split
from tl_lightning.data.loaders import dataset_of
from tl_lightning.data.transforms.geometry import Centre
from tl_lightning.errors import DataError
from tl_lightning.inference.predictor import Predictor
from tl_lightning.training import fit as training


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder = tmp_path_factory.mktemp("predictor")
    split_folders(folder / "data")
    training.fit(file_config(folder / "data"), folder / "run")
    return Predictor.open(folder / "run")


def test_an_image_is_prepared_as_in_evaluation(predictor: Predictor, tmp_path: Path) -> None:
    files = [image(tmp_path / f"{width}.png", 3, (width, 40)) for width in (30, 64, 200)]
    dataset = dataset_of(
        Split(files, None, list(map(str, files))), predictor.spec, Centre(predictor.spec), None
    )
    for number, file in enumerate(files):
        expected = dataset[(number, 0)]["inputs"]
        assert torch.equal(predictor.image(file), expected)
        assert torch.equal(predictor.image(file.read_bytes()), expected)


def test_an_image_that_is_none_is_named(predictor: Predictor) -> None:
    with pytest.raises(DataError, match=r"cannot read image upload\.jpg: cannot identify image"):
        predictor.image(b"text", "upload.jpg")


def test_outputs_do_not_depend_on_the_other_samples(predictor: Predictor) -> None:
    size = predictor.spec.size
    inputs = torch.randint(0, 256, (4, 3, size, size), dtype=torch.uint8)
    together = predictor.outputs(inputs)
    alone = [predictor.outputs(inputs[[number]]).logits[0] for number in range(4)]
    assert np.allclose(together.logits, alone, atol=1e-5)
    probabilities = predictor.probabilities(together.logits)
    assert np.allclose(probabilities.sum(axis=1), 1)
    assert np.array_equal(probabilities.argmax(axis=1), together.logits.argmax(axis=1))
