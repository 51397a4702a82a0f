"""BSP against singular values in numpy."""

from __future__ import annotations

import numpy as np
import pytest

from methods import PENALTY, arrays, built, context, gradients, views
from tl_lightning.methods.bsp import BSP


@pytest.mark.parametrize("k", [1, 2])
def test_value(k: int) -> None:
    given = views()
    a = arrays(given)
    expected = sum((np.linalg.svd(a[name])[1][:k] ** 2).sum() for name in ("fs", "ft"))
    assert built(BSP, k=k, **PENALTY)(given, context())["bsp"].item() == pytest.approx(
        expected, rel=1e-5
    )


def test_gradient_is_along_the_largest_direction() -> None:
    given = views()
    terms = built(BSP, k=1, **PENALTY)(given, context())
    for role in ("source", "target"):
        x = given[role].features
        gradient = gradients(built(BSP, k=1, **PENALTY)(given, context()), x)[0]
        u, s, v = np.linalg.svd(x.detach().double().numpy(), full_matrices=False)
        expected = 2 * s[0] * np.outer(u[:, 0], v[0])
        assert np.allclose(gradient.numpy(), expected, atol=1e-4)
    assert terms["bsp"] > 0
