import pickle

import pytest
import torch

from tl_lightning.data.transforms.shift import SyntheticShift
from tl_lightning.errors import DataError

IDENTITY = {
    "blur": 0.0,
    "brightness": 1.0,
    "saturation": 1.0,
    "tint": [1.0, 1.0, 1.0],
    "noise": 0.0,
    "seed": 0,
}


def shift(**settings):
    return SyntheticShift(**{**IDENTITY, **settings})


@pytest.fixture
def image():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 40, 30), dtype=torch.uint8, generator=generator)


def test_neutral_settings_are_the_identity(image):
    assert torch.equal(shift()(image, key=3), image)


def test_shift_depends_only_on_image_key_and_seed(image):
    degrade = shift(blur=0.05, brightness=0.6, saturation=0.3, tint=[1.2, 1.0, 0.7], noise=0.1)
    before = image.clone()
    first = degrade(image, key=5)
    torch.manual_seed(99)
    assert torch.equal(degrade(image, key=5), first)
    assert torch.equal(pickle.loads(pickle.dumps(degrade))(image, key=5), first)
    assert torch.equal(image, before)
    assert first.dtype == torch.uint8
    assert first.shape == image.shape
    assert not torch.equal(degrade(image, key=6), first)
    assert not torch.equal(shift(noise=0.1, seed=1)(image, 5), shift(noise=0.1)(image, 5))


def test_global_generator_is_not_used(image):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    shift(noise=0.1)(image, key=0)
    assert torch.equal(torch.rand(3), expected)


def test_effect_of_each_setting():
    flat = torch.tensor([200, 100, 50], dtype=torch.uint8).view(3, 1, 1).repeat(1, 64, 64)
    assert shift(brightness=0.5)(flat, 0)[:, 0, 0].tolist() == [100, 50, 25]
    gray = shift(saturation=0.0)(flat, 0)[:, 0, 0]
    assert gray.float().std() == 0
    assert abs(int(gray[0]) - round(0.2989 * 200 + 0.587 * 100 + 0.114 * 50)) <= 1
    assert shift(tint=[1.5, 1.0, 0.5])(flat, 0)[:, 0, 0].tolist() == [255, 100, 25]
    noisy = shift(noise=0.05)(flat, 0)[1].float()
    assert noisy.std().item() == pytest.approx(0.05 * 255, rel=0.05)
    assert noisy.mean().item() == pytest.approx(100, abs=1)
    assert torch.equal(shift(blur=0.1)(flat, 0), flat)


@pytest.mark.parametrize("size", [64, 128])
def test_blur_is_relative_to_the_image_size(size):
    """An edge blurred with standard deviation s rises from 16% to 84% over 2 s."""
    edge = torch.zeros(3, size, size, dtype=torch.uint8)
    edge[:, :, size // 2 :] = 255
    profile = shift(blur=0.05)(edge, 0)[0, size // 2].float() / 255
    width = ((profile > 0.159) & (profile < 0.841)).sum().item()
    assert width == pytest.approx(2 * 0.05 * size, abs=1.01)
    rows = shift(blur=0.05)(edge.transpose(1, 2).contiguous(), 0)
    assert torch.equal(rows.transpose(1, 2), shift(blur=0.05)(edge, 0))


def test_blur_of_a_one_pixel_high_image():
    image = torch.full((3, 1, 5), 9, dtype=torch.uint8)
    assert torch.equal(shift(blur=3.0)(image, 0), image)


def test_describe():
    text = shift(blur=0.01, noise=0.05, tint=[1.15, 1.0, 0.75], seed=4).describe()
    assert text.startswith("synthetic shift")
    for part in ("blur 1%", "brightness x1", "saturation x1", "tint 1.15/1/0.75", "noise 5%"):
        assert part in text
    assert text.endswith("seed 4")


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "much", None])
@pytest.mark.parametrize("name", ["blur", "brightness", "saturation", "noise"])
def test_invalid_numbers(name, value):
    message = (
        rf"{name} of the synthetic shift must be a number >= 0, got .*; "
        rf"set data\.target\.shift\.{name}="
    )
    with pytest.raises(DataError, match=message):
        shift(**{name: value})


@pytest.mark.parametrize("tint", [[1.0, 1.0], 1.0, [1, 1, -1], "red", [1, 1, "x"]])
def test_invalid_tint(tint):
    message = (
        r"tint of the synthetic shift must be three numbers >= 0, got .*; "
        r"set data\.target\.shift\.tint=\["
    )
    with pytest.raises(DataError, match=message):
        shift(tint=tint)
