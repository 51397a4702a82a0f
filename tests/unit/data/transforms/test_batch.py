"""Augmentation: per-sample seeding, and agreement with torchvision and the documented ranges."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from tl_lightning.data.io.images import resized
from tl_lightning.data.transforms.batch import Affine, Colour, Erase
from tl_lightning.data.transforms.geometry import Centre, RandomCrop
from tl_lightning.data.transforms.pixel import PixelAugment
from tl_lightning.data.transforms.presets import augmentation
from tl_lightning.types import InputSpec

SPEC = InputSpec(32, (0.5, 0.25, 0.0), (0.5,) * 3)
NAMES = (
    "none", "flip", "light", "crop", "standard", "strong", "randaugment", "trivialaugment",
    "shear_zoom_flip",
)  # fmt: skip


def images(number=4, height=50, width=70, seed=0):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (number, 5, 7, 3)).repeat(10, axis=1).repeat(10, axis=2)
    return [torch.from_numpy(p[:height, :width].astype(np.uint8)).permute(2, 0, 1) for p in pixels]


def run(name, originals, seeds):
    changes = augmentation(SPEC, name)
    out = torch.empty((len(originals), 32, 32, 3), dtype=torch.uint8)
    changes.geometry(originals, seeds, out)
    return changes.finish(out.permute(0, 3, 1, 2), seeds)


@pytest.mark.parametrize("name", NAMES)
def test_augmentation_depends_only_on_the_seed_of_the_sample(name) -> None:
    originals, seeds = images(), [3, 2**62, 5, 7]
    torch.manual_seed(0)
    before = torch.get_rng_state()
    batched = run(name, originals, seeds)
    single = torch.cat([run(name, [p], [s]) for p, s in zip(originals, seeds, strict=True)])
    assert torch.equal(torch.get_rng_state(), before)
    # Batched float kernels may round values halfway between two integers differently.
    assert (batched.int() - single.int()).abs().max() <= 1
    assert (batched != single).float().mean() < 1e-3
    other = run(name, originals, [s + 1 for s in seeds])
    assert torch.equal(batched, other) == (name == "none")


def test_crops_and_flips_without_changes_of_colour() -> None:
    """``flip`` only mirrors, and ``crop`` has the geometry of ``standard``."""
    originals, seeds = images(16), list(range(16))
    plain, flipped = run("none", originals, seeds), run("flip", originals, seeds)
    mirrored = [torch.equal(one.flip(-1), other) for one, other in zip(plain, flipped, strict=True)]
    kept = [torch.equal(one, other) for one, other in zip(plain, flipped, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 0 < sum(mirrored) < 16
    crop, standard = augmentation(SPEC, "crop"), augmentation(SPEC, "standard")
    assert isinstance(crop.geometry, RandomCrop)
    assert crop.geometry.area == standard.geometry.area == 0.08
    assert crop.batch == ()


def test_evaluation_equals_torchvisions_resize_and_centre_crop() -> None:
    for height, width in ((50, 70), (70, 50), (20, 33), (37, 37)):
        image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
        out = torch.empty((1, 32, 32, 3), dtype=torch.uint8)
        Centre(SPEC)([image], [0], out)
        reference = functional.resize(image, [37], antialias=True)
        small = resized(image, 37, SPEC)
        expected = functional.center_crop(small, [32, 32])
        assert small.shape == reference.shape
        assert (small.int() - reference.int()).abs().max() <= 1
        assert torch.equal(out[0].permute(2, 0, 1), expected)


def test_random_crop_equals_torchvisions_resized_crop() -> None:
    (image,) = images(1)
    out = torch.empty((1, 32, 32, 3), dtype=torch.uint8)
    crop = RandomCrop(SPEC, 0.3)
    flips = set()
    from tl_lightning.data.transforms.uniforms import uniforms

    for seed in range(8):
        crop([image], [seed], out)
        draws = uniforms([seed], 23)
        (box,) = crop.boxes(np.array([50]), np.array([70]), draws[:, :-1]).tolist()
        expected = functional.resized_crop(image, *box, [32, 32], antialias=True)
        flipped = draws[0, -1] < 0.5
        expected = expected.flip(-1) if flipped else expected
        flips.add(bool(flipped))
        assert (out[0].permute(2, 0, 1).int() - expected.int()).abs().max() <= 1
    assert flips == {True, False}


def test_crop_boxes_are_inside_the_image_with_the_documented_areas_and_ratios() -> None:
    number = 4000
    draws = np.random.default_rng(0).random((number, 22))
    heights, widths = np.full(number, 240), np.full(number, 320)
    top, left, h, w = RandomCrop(SPEC, 0.5).boxes(heights, widths, draws).T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + h <= 240).all()
    assert (left + w <= 320).all()
    area, ratio = h * w / (240 * 320), w / h
    assert area.min() > 0.49
    assert area.max() <= 1.0
    assert abs(area.mean() - 0.7) < 0.05  # large boxes often do not fit
    assert ratio.min() > 0.74
    assert ratio.max() < 1.36
    assert abs(left.mean() - (320 - w).mean() / 2) < 3


def test_narrow_image_is_cropped_in_the_centre() -> None:
    box = RandomCrop(SPEC, 0.9).boxes(np.array([10]), np.array([100]), np.full((1, 22), 0.99))
    assert box.tolist() == [[0, 43, 10, 13]]


def colour(pixel, **kwargs):
    image = torch.tensor(pixel, dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    return Colour(**kwargs)(image, [5])[0, :, 0, 0].tolist()


def test_colour_jitter_of_zero_is_the_identity_and_gray_stays_gray() -> None:
    originals = torch.stack(images()).contiguous()
    unchanged = Colour(jitter=0.0)(originals, [1, 2, 3, 4])
    assert (unchanged.int() - originals.int()).abs().max() <= 1
    red, green, blue = colour([90, 90, 90], jitter=0.4, hue=0.2)
    assert max(red, green, blue) - min(red, green, blue) <= 1


def test_grayscale_equals_torchvisions() -> None:
    originals = torch.stack(images())
    gray = Colour(jitter=0.0, gray=1.0)(originals, [1, 2, 3, 4])
    expected = functional.rgb_to_grayscale(originals, num_output_channels=3)
    assert (gray.int() - expected.int()).abs().max() <= 1


def test_brightness_and_hue_stay_within_their_ranges() -> None:
    flat = torch.full((500, 3, 4, 4), 100, dtype=torch.uint8)
    values = Colour(jitter=0.4)(flat, list(range(500)))[:, 0, 0, 0].float()
    assert values.min() >= 59
    assert values.max() <= 141
    assert abs(values.mean() - 100) < 3
    hues = set()
    for seed in range(40):
        image = torch.tensor([200, 60, 60], dtype=torch.uint8).view(1, 3, 1, 1)
        pixel = Colour(jitter=0.0, hue=0.1)(image.expand(1, 3, 4, 4), [seed])[0, :, 0, 0]
        hues.add(round(colorsys.rgb_to_hsv(*(pixel / 255.0).tolist())[0], 3))
    signed_hues = [hue if hue < 0.5 else hue - 1 for hue in hues]
    assert -0.2 < min(signed_hues) < -0.03
    assert 0.03 < max(signed_hues) < 0.2


def test_affine_keeps_the_centre_and_zero_is_the_identity() -> None:
    originals = torch.stack(images())[:, :, :48, :48].contiguous()
    unchanged = Affine(shear=0.0, zoom=0.0)(originals, [1, 2, 3, 4])
    assert (unchanged.int() - originals.int()).abs().max() <= 1
    warped = Affine(shear=0.2, zoom=0.2)(originals, [1, 2, 3, 4])
    assert not torch.equal(warped, originals)
    assert (warped[:, :, 24, 24].int() - originals[:, :, 24, 24].int()).abs().max() <= 255
    dot = torch.zeros(1, 3, 33, 33, dtype=torch.uint8)
    dot[:, :, 16, 16] = 255
    assert Affine(shear=0.2, zoom=0.2)(dot, [9])[0, 0].argmax() == 16 * 33 + 16


def test_erasing_fills_one_box_with_the_mean_colour_at_the_given_rate() -> None:
    white = torch.full((400, 3, 32, 32), 255, dtype=torch.uint8)
    out = Erase(probability=0.25, spec=SPEC)(white, list(range(400)))
    changed = (out != 255).any(dim=1)
    erased = changed.flatten(1).any(dim=1)
    assert 0.18 < erased.float().mean() < 0.32
    area = changed.flatten(1).float().mean(dim=1)[erased]
    assert area.max() <= 0.40
    assert area.mean() > 0.08
    for mask in changed[erased][:20]:
        rows, columns = mask.any(dim=1), mask.any(dim=0)
        assert mask.sum() == rows.sum() * columns.sum()  # rectangular
    fill = out[erased][0][:, changed[erased][0]][:, 0]
    assert fill.tolist() == [128, 64, 0]


def test_small_images_are_zoomed_and_sheared_before_the_other_changes() -> None:
    pixels, seeds = torch.stack(images(height=28, width=28)), [3, 2**62, 5, 7]
    others = {"shift": 2, "contrast": 0.5, "invert": 0.5}
    plain = PixelAugment(**others, zoom=0.0, shear=0.0)
    both = PixelAugment(**others, zoom=0.3, shear=0.2)
    warped = Affine(zoom=0.3, shear=0.2)(pixels, seeds)
    assert not torch.equal(both(pixels, seeds), plain(pixels, seeds))
    assert torch.equal(both(pixels, seeds), plain(warped, seeds))
