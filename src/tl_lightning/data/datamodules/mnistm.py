"""Digits blended with photographs, as in MNIST-M."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tl_lightning.errors import DataError

__all__ = ["binarised", "blend", "enlarge"]


def binarised(digits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Set every pixel of a stroke, however faint, to 255, as in the published MNIST-M.

    Blended as they are, the grey edges of the strokes would outline the digits.

    Args:
        digits: Of any shape, on a background of 0.

    >>> binarised(np.array([[0, 1, 255]], dtype=np.uint8))
    array([[  0, 255, 255]], dtype=uint8)
    """
    return np.where(digits > 0, np.uint8(255), np.uint8(0))


def blend(
    digits: NDArray[np.uint8], photos: Sequence[NDArray[np.uint8]], seed: int, *, scale: int = 1
) -> NDArray[np.uint8]:
    r"""Blend each digit with a patch of a photograph.

    :math:`out_{ijk} = | digit_{ij} - patch_{ijk} |` for the colour channels :math:`k` (Ganin et
    al., "Domain-Adversarial Training of Neural Networks", JMLR 17(59), 2016, section 5.2.4); the
    digits of MNIST-M are :func:`binarised` first. The photograph is drawn uniformly for every
    digit, then the corner of the patch. The same seed gives the same images.

    Args:
        digits: ``(N, H, W)``, bright strokes on a dark background.
        photos: RGB images ``(h, w, 3)`` of any size.
        seed: Seed of the choice of photographs and corners.
        scale: The patch covers ``scale * H`` x ``scale * W`` pixels of the photograph, averaged
            over squares of ``scale`` x ``scale``.

    Returns:
        ``(N, H, W, 3)``.

    Raises:
        DataError: If ``photos`` is empty or one of them is smaller than a patch.

    >>> digits = np.full((2, 4, 4), 255, dtype=np.uint8)
    >>> photo = np.full((9, 9, 3), 55, dtype=np.uint8)
    >>> blend(digits, [photo], seed=0).shape, int(blend(digits, [photo], seed=0).min())
    ((2, 4, 4, 3), 200)
    """
    number, height, width = digits.shape
    if not photos:
        raise DataError("photos must not be empty; pass at least one photograph")
    for photo in photos:
        if photo.shape[0] < scale * height or photo.shape[1] < scale * width:
            raise DataError(
                f"a photograph of {photo.shape[0]} x {photo.shape[1]} pixels is smaller than the "
                f"patch of {scale * height} x {scale * width}; remove it or set a smaller scale"
            )
    rng = np.random.default_rng(seed)
    blended = np.empty((number, height, width, 3), dtype=np.uint8)
    for index in range(number):
        photo = photos[int(rng.integers(len(photos)))]
        top = int(rng.integers(photo.shape[0] - scale * height + 1))
        left = int(rng.integers(photo.shape[1] - scale * width + 1))
        window = photo[top : top + scale * height, left : left + scale * width]
        patch = window.reshape(height, scale, width, scale, 3).mean(axis=(1, 3)).round()
        # In int16: the difference of two uint8 wraps around.
        blended[index] = np.abs(digits[index, :, :, None].astype(np.int16) - patch.astype(np.int16))
    return blended


def enlarge(digits: NDArray[np.float64], size: int, sharpness: float) -> NDArray[np.uint8]:
    r"""Enlarge the 8 x 8 digits of scikit-learn to images with sharp strokes.

    Bilinear interpolation with half-pixel centres, then
    :math:`255 \cdot clip(sharpness (x - 1/2) + 1/2, 0, 1)`.

    Args:
        digits: ``(N, h, w)`` in [0, 16].
        size: Height and width of the result in pixels.
        sharpness: Sharpness of the edges, at least 1; 1 only interpolates.

    Returns:
        ``(N, size, size)``.

    >>> enlarge(np.full((1, 8, 8), 16.0), size=16, sharpness=2.0).mean()
    np.float64(255.0)
    """
    rows = _bilinear(digits.shape[1], size)
    columns = _bilinear(digits.shape[2], size)
    smooth = rows @ (digits / 16.0) @ columns.T
    sharp = np.clip(sharpness * (smooth - 0.5) + 0.5, 0.0, 1.0)
    return np.round(255.0 * sharp).astype(np.uint8)


def _bilinear(old: int, new: int) -> NDArray[np.float64]:
    """Return the weights ``(new, old)`` of bilinear interpolation along one axis."""
    centres = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    weights: NDArray[np.float64] = np.maximum(
        0.0, 1.0 - np.abs(centres[:, None] - np.arange(old)[None, :])
    )
    return weights
