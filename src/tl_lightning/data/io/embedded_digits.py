"""The digits in scikit-learn as a set of its own, beside MNIST and USPS."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tl_lightning.data.io.idx import DigitSet

__all__ = ["read_digits"]

#: Number of test images; the set has no official split.
TEST = 360


def read_digits(root: str | Path, download: bool) -> DigitSet:
    """Return the 1,797 images of 8 x 8 pixels in scikit-learn, scaled from 16 to 255.

    The last 360 are the test images.

    Args:
        root: Not used; the images are part of scikit-learn.
        download: Not used.

    >>> digits = read_digits(".", False)
    >>> digits.x_train.shape, digits.x_test.shape, int(digits.x_train.max())
    ((1437, 8, 8), (360, 8, 8), 255)
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = np.round(pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = labels.astype(np.uint8)
    return DigitSet(images[:-TEST], labels[:-TEST], images[-TEST:], labels[-TEST:])
