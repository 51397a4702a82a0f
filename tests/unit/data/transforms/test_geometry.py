"""The user's transform of training images, seeded per sample."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor

from tl_lightning.data.transforms.geometry import Centre, Transformed
from tl_lightning.errors import DataError
from tl_lightning.types import InputSpec

SPEC = InputSpec(16, (0.5,) * 3, (0.5,) * 3)
IMAGES = [torch.full((3, 24, 20), level, dtype=torch.uint8) for level in (10, 100)]


def noisy(image: Tensor) -> Tensor:
    """Add values of all three global generators."""
    values = random.randrange(20), int(np.random.randint(20)), int(torch.randint(20, ()))
    return image + torch.tensor(values, dtype=torch.uint8)[:, None, None]


def applied(transform: Transformed, seeds: list[int]) -> Tensor:
    out = torch.zeros(len(seeds), 16, 16, 3, dtype=torch.uint8)
    transform([IMAGES[k % 2] for k in range(len(seeds))], seeds, out)
    return out


def test_transform_depends_only_on_the_seed_of_the_sample() -> None:
    transform = Transformed(SPEC, noisy)
    first = applied(transform, [3, 4, 5])
    torch.manual_seed(99)
    assert torch.equal(applied(transform, [3, 4, 5]), first)
    assert not torch.equal(first[0], first[2])


def test_global_generators_are_restored_even_after_an_error() -> None:
    def failing(image: Tensor) -> Tensor:
        if image.float().mean() == 100:
            raise ValueError
        return noisy(image)

    transform = Transformed(SPEC, failing)
    states = random.getstate(), torch.get_rng_state(), np.random.get_state()
    applied(transform, [3])
    with pytest.raises(ValueError):  # noqa: PT011
        applied(transform, [3, 4])
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
    assert np.array_equal(np.random.get_state()[1], states[2][1])
    assert np.random.get_state()[2] == states[2][2]


def test_other_sizes_are_resized_and_cropped() -> None:
    expected = torch.zeros(1, 16, 16, 3, dtype=torch.uint8)
    Centre(SPEC)([IMAGES[0]], [0], expected)
    assert torch.equal(applied(Transformed(SPEC, lambda image: image), [0]), expected)


def test_transform_with_another_result_is_an_error() -> None:
    message = r"data\.transform must return uint8 images \(3, H, W\), got torch\.float32 \(3, 32, 3"
    with pytest.raises(DataError, match=message):
        Transformed(SPEC, lambda image: image.float())
