"""Memory is bounded for large and for very long images."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from tl_lightning.data.checks.files import examine
from tl_lightning.data.datasets import ImageDataset, SplitReader
from tl_lightning.data.domain import Split
from tl_lightning.data.io import images, pixels
from tl_lightning.data.io.images import open_image, resized, shorter_side
from tl_lightning.data.loaders import dataset_of
from tl_lightning.data.transforms.geometry import LONGEST, Centre
from tl_lightning.data.transforms.presets import augmentation
from tl_lightning.errors import DataError
from tl_lightning.types import InputSpec

SPEC = InputSpec(32, (0.5,) * 3, (0.5,) * 3, crop_pct=0.8)


def noise(height, width, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8)
    return torch.from_numpy(values)


def centre(image):
    out = torch.empty((1, 32, 32, 3), dtype=torch.uint8)
    Centre(SPEC)([image], [0], out)
    return out[0].permute(2, 0, 1).float()


@pytest.mark.parametrize(("height", "width"), [(2, 101), (100, 3), (1, 60), (3, 64), (5, 41)])
def test_centre_of_a_long_image_is_that_of_the_whole_resized_image(height, width):
    image = noise(height, width)
    whole = resized(image, shorter_side(SPEC), SPEC).float()
    top, left = (round((side - 32) / 2) for side in whole.shape[-2:])
    expected = whole[:, top : top + 32, left : left + 32]
    # The scale of the longer side is rounded to whole pixels.
    assert (centre(image) - expected).abs().mean() < 4
    assert max(height, width) > LONGEST * min(height, width)


@pytest.mark.parametrize("size", [(60_000, 1), (1, 60_000), (5000, 2)])
@pytest.mark.parametrize("preset", ["none", "light", "crop"])
def test_long_images_are_never_enlarged_as_a_whole(tmp_path, monkeypatch, size, preset):
    Image.new("RGB", size, (200, 0, 0)).save(tmp_path / "line.png")
    split = Split([tmp_path / "line.png"], None, ["line.png"])
    largest = []
    original = torch.nn.functional.interpolate

    def interpolate(image, size, **options):
        largest.append(size[0] * size[1])
        return original(image, size, **options)

    monkeypatch.setattr(torch.nn.functional, "interpolate", interpolate)
    data = dataset_of(split, SPEC, augmentation(SPEC, preset).geometry, None)
    assert isinstance(data, ImageDataset)
    assert (data[(0, 1)]["inputs"][0] == 200).all()
    assert max(largest) <= 2 * LONGEST * 40**2


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "I;16"])
def test_large_images_are_reduced(tmp_path, monkeypatch, suffix, mode):
    if (mode == "I;16" and suffix not in ("png", "tif")) or (mode == "RGBA" and suffix == "jpg"):
        pytest.skip("the format has no such mode")
    small = Image.fromarray(noise(6, 8).permute(1, 2, 0).numpy())
    original = small.resize((160, 120), Image.Resampling.BICUBIC).convert("RGB")
    if mode == "I;16":
        grey = np.asarray(original.convert("L")).astype(np.uint16) * 257
        original, saved = original.convert("L").convert("RGB"), Image.fromarray(grey)
    else:
        saved = original.convert(mode)
        original = saved.convert("RGB")
    path = tmp_path / f"a.{suffix}"
    saved.save(path)
    whole = open_image(path, white=65535)
    for module in (images, pixels):
        monkeypatch.setattr(module, "LARGE", 160 * 120 // 9)
    found = open_image(path, white=65535)
    assert found.shape[1] * found.shape[2] <= 160 * 120 // 9
    assert abs(found.shape[2] / found.shape[1] - 4 / 3) < 0.05
    size = tuple(found.shape[1:])
    expected = torch.nn.functional.interpolate(whole[None].float(), size, mode="area")[0]
    assert (found - expected).abs().mean() < 5
    assert examine(path).size == (160, 120)


@pytest.mark.slow
def test_files_and_images_above_the_limits_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.new("RGB", (40, 40)).save(path)
    monkeypatch.setattr(images, "MAX_BYTES", 50)
    with pytest.raises(DataError, match=r"file of 0\.0 GB exceeds the limit of 0 GB"):
        open_image(path)
    assert "enormous" in examine(path).kinds
    Image.new("1", (20_000, 20_000)).save(path)
    monkeypatch.undo()
    tracemalloc.start()
    with pytest.raises(DataError, match=r"400000000 pixels. exceeds limit of 178956970 pixels"):
        SplitReader(Split([path], None, ["a"]), None, SPEC)(0)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
