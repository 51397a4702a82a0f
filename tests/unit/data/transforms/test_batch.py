"""Augmentation: drawn from each sample's seed alone, and what its names promise."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from tl_lightning.data.io.images import resized
from tl_lightning.data.transforms.batch import Affine, Colour, Erase
from tl_lightning.data.transforms.geometry import Centre, RandomCrop
from tl_lightning.data.transforms.presets import augmentation
from tl_lightning.types import InputSpec

SPEC = InputSpec(32, (0.5, 0.25, 0.0), (0.5,) * 3)
NAMES = (
    "none", "light", "standard", "strong", "randaugment", "trivialaugment", "shear_zoom_flip",
)  # fmt: skip


def pictures(number=4, high=50, wide=70, seed=0):
    rng = np.random.default_rng(seed)
    soft = rng.integers(0, 256, (number, 5, 7, 3)).repeat(10, axis=1).repeat(10, axis=2)
    return [torch.from_numpy(p[:high, :wide].astype(np.uint8)).permute(2, 0, 1) for p in soft]


def run(name, shown, seeds):
    changes = augmentation(SPEC, name)
    out = torch.empty((len(shown), 32, 32, 3), dtype=torch.uint8)
    changes.geometry(shown, seeds, out)
    return changes.finish(out.permute(0, 3, 1, 2), seeds)


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_is_the_same_in_any_batch_and_the_generator_is_left_alone(name) -> None:
    shown, seeds = pictures(), [3, 2**62, 5, 7]
    torch.manual_seed(0)
    before = torch.get_rng_state()
    whole = run(name, shown, seeds)
    alone = torch.cat([run(name, [p], [s]) for p, s in zip(shown, seeds, strict=True)])
    assert torch.equal(torch.get_rng_state(), before)
    # Batched float kernels may round a value that lies between two bytes the other way.
    assert (whole.int() - alone.int()).abs().max() <= 1
    assert (whole != alone).float().mean() < 1e-3
    other = run(name, shown, [s + 1 for s in seeds])
    assert torch.equal(whole, other) == (name == "none")


def test_evaluation_is_torchvisions_resize_and_centre_crop() -> None:
    for high, wide in ((50, 70), (70, 50), (20, 33), (37, 37)):
        picture = torch.randint(0, 256, (3, high, wide), dtype=torch.uint8)
        out = torch.empty((1, 32, 32, 3), dtype=torch.uint8)
        Centre(SPEC)([picture], [0], out)
        shorter = functional.resize(picture, [37], antialias=True)
        same = resized(picture, 37, SPEC)
        wanted = functional.center_crop(same, [32, 32])
        assert same.shape == shorter.shape
        assert (same.int() - shorter.int()).abs().max() <= 1
        assert torch.equal(out[0].permute(2, 0, 1), wanted)


def test_a_crop_is_torchvisions_resized_crop_of_its_box() -> None:
    (picture,) = pictures(1)
    out = torch.empty((1, 32, 32, 3), dtype=torch.uint8)
    crop = RandomCrop(SPEC, 0.3)
    seen = set()
    from tl_lightning.data.transforms.pixel import uniforms

    for seed in range(8):
        crop([picture], [seed], out)
        draws = uniforms([seed], 23)
        (box,) = crop.boxes(np.array([50]), np.array([70]), draws[:, :-1]).tolist()
        wanted = functional.resized_crop(picture, *box, [32, 32], antialias=True)
        flipped = draws[0, -1] < 0.5
        wanted = wanted.flip(-1) if flipped else wanted
        seen.add(bool(flipped))
        assert (out[0].permute(2, 0, 1).int() - wanted.int()).abs().max() <= 1
    assert seen == {True, False}


def test_boxes_lie_inside_and_have_the_promised_areas_and_ratios() -> None:
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


def test_a_picture_too_narrow_for_any_box_is_cropped_in_its_middle() -> None:
    box = RandomCrop(SPEC, 0.9).boxes(np.array([10]), np.array([100]), np.full((1, 22), 0.99))
    assert box.tolist() == [[0, 43, 10, 13]]


def colour(pixel, **kwargs):
    picture = torch.tensor(pixel, dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    return Colour(**kwargs)(picture, [5])[0, :, 0, 0].tolist()


def test_colour_keeps_gray_gray_and_zero_changes_nothing() -> None:
    shown = torch.stack(pictures()).contiguous()
    same = Colour(jitter=0.0)(shown, [1, 2, 3, 4])
    assert (same.int() - shown.int()).abs().max() <= 1
    red, green, blue = colour([90, 90, 90], jitter=0.4, hue=0.2)
    assert max(red, green, blue) - min(red, green, blue) <= 1


def test_gray_is_the_luma_of_torchvision() -> None:
    shown = torch.stack(pictures())
    gray = Colour(jitter=0.0, gray=1.0)(shown, [1, 2, 3, 4])
    wanted = functional.rgb_to_grayscale(shown, num_output_channels=3)
    assert (gray.int() - wanted.int()).abs().max() <= 1


def test_jitter_moves_brightness_within_its_range_and_hue_turns_the_right_way() -> None:
    flat = torch.full((500, 3, 4, 4), 100, dtype=torch.uint8)
    values = Colour(jitter=0.4)(flat, list(range(500)))[:, 0, 0, 0].float()
    assert values.min() >= 59
    assert values.max() <= 141
    assert abs(values.mean() - 100) < 3
    hues = set()
    for seed in range(40):
        picture = torch.tensor([200, 60, 60], dtype=torch.uint8).view(1, 3, 1, 1)
        pixel = Colour(jitter=0.0, hue=0.1)(picture.expand(1, 3, 4, 4), [seed])[0, :, 0, 0]
        hues.add(round(colorsys.rgb_to_hsv(*(pixel / 255.0).tolist())[0], 3))
    turned = [hue if hue < 0.5 else hue - 1 for hue in hues]
    assert -0.2 < min(turned) < -0.03
    assert 0.03 < max(turned) < 0.2


def test_affine_leaves_the_centre_and_zero_changes_nothing() -> None:
    shown = torch.stack(pictures())[:, :, :48, :48].contiguous()
    same = Affine(shear=0.0, zoom=0.0)(shown, [1, 2, 3, 4])
    assert (same.int() - shown.int()).abs().max() <= 1
    moved = Affine(shear=0.2, zoom=0.2)(shown, [1, 2, 3, 4])
    assert not torch.equal(moved, shown)
    assert (moved[:, :, 24, 24].int() - shown[:, :, 24, 24].int()).abs().max() <= 255
    spot = torch.zeros(1, 3, 33, 33, dtype=torch.uint8)
    spot[:, :, 16, 16] = 255
    assert Affine(shear=0.2, zoom=0.2)(spot, [9])[0, 0].argmax() == 16 * 33 + 16


def test_erasing_paints_one_box_in_the_mean_colour_as_often_as_asked() -> None:
    white = torch.full((400, 3, 32, 32), 255, dtype=torch.uint8)
    out = Erase(probability=0.25, spec=SPEC)(white, list(range(400)))
    changed = (out != 255).any(dim=1)
    touched = changed.flatten(1).any(dim=1)
    assert 0.18 < touched.float().mean() < 0.32
    area = changed.flatten(1).float().mean(dim=1)[touched]
    assert area.max() <= 0.40
    assert area.mean() > 0.08
    for mask in changed[touched][:20]:
        rows, columns = mask.any(dim=1), mask.any(dim=0)
        assert mask.sum() == rows.sum() * columns.sum()  # a box
    spot = out[touched][0][:, changed[touched][0]][:, 0]
    assert spot.tolist() == [128, 64, 0]
