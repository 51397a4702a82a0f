"""Corruptions of images: each against a direct computation with another library."""

from __future__ import annotations

import colorsys
import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter, zoom

from tl_lightning.data.transforms.corruptions import CORRUPTIONS, SEVERITIES, corrupted


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    """Return a smooth image of 112 x 112 pixels, as photographs are, with some black ones."""
    coarse = np.random.default_rng(0).uniform(0, 255, (3, 14, 14))
    pixels = np.clip(np.stack([zoom(part, 8, order=1) for part in coarse]), 0, 255)
    pixels[:, :8, :8] = 0
    return torch.from_numpy(pixels.astype(np.uint8))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severities_differ_more_and_more_from_the_image(name, image) -> None:
    changed = [corrupted(image, name, severity, key=1) for severity in SEVERITIES]
    errors = [float((one.float() - image.float()).square().mean()) for one in changed]
    assert errors == sorted(errors)
    assert errors[0] > 0
    assert all(one.dtype == torch.uint8 and one.shape == image.shape for one in changed)


def test_noise_has_the_standard_deviation_and_depends_on_the_key() -> None:
    grey = torch.full((3, 200, 200), 128, dtype=torch.uint8)
    for severity, strength in zip(SEVERITIES[:2], (0.08, 0.12), strict=True):
        noise = (corrupted(grey, "gaussian_noise", severity, key=3).float() - 128) / 255
        assert float(noise.std()) == pytest.approx(strength, rel=0.02)
        assert abs(float(noise.mean())) < 0.002
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = corrupted(grey, "gaussian_noise", 1, key=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first, corrupted(grey, "gaussian_noise", 1, key=3))
    assert not torch.equal(first, corrupted(grey, "gaussian_noise", 1, key=4))


@pytest.mark.parametrize(("severity", "sigma"), [(1, 0.5), (3, 1.5), (5, 3.0)])
def test_blur_is_that_of_scipy_for_images_half_as_wide(severity, sigma, image) -> None:
    expected = [gaussian_filter(part.astype(float), sigma, mode="mirror") for part in image.numpy()]
    found = corrupted(image, "gaussian_blur", severity, key=0).numpy()
    assert np.abs(found - np.stack(expected)).max() < 2


def test_brightness_is_added_to_the_value_of_the_hsv_colour(image) -> None:
    found = corrupted(image, "brightness", 3, key=0).numpy() / 255
    for row, column in ((0, 0), (20, 30), (50, 60), (100, 90)):
        hue, saturation, value = colorsys.rgb_to_hsv(*image.numpy()[:, row, column] / 255)
        expected = colorsys.hsv_to_rgb(hue, saturation, min(value + 0.3, 1))
        assert found[:, row, column] == pytest.approx(expected, abs=0.51 / 255)


def test_contrast_moves_each_channel_to_its_mean(image) -> None:
    pixels = image.numpy().astype(float)
    mean = pixels.mean((1, 2), keepdims=True)
    found = corrupted(image, "contrast", 4, key=0).numpy()
    assert np.abs(found - ((pixels - mean) * 0.1 + mean)).max() < 0.51


def test_jpeg_is_that_of_a_file_of_this_quality(image) -> None:
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=10)
    expected = np.array(Image.open(file)).transpose(2, 0, 1)
    assert np.array_equal(corrupted(image, "jpeg", 4, key=0).numpy(), expected)
