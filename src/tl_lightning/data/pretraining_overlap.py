"""Detection of overlap between a dataset and the ImageNet pretraining data."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["pretraining_overlap"]

#: ImageNet file names: n02085620_10074.JPEG, ILSVRC2012_val_00000001.JPEG.
_IMAGENET = re.compile(r"(n\d{8}_\d+|ILSVRC20\d\d_(val|test|train)_\d+)\.[A-Za-z]+$")
#: Fraction of ImageNet file names above which a dataset is considered to overlap.
_MIN_FRACTION = 0.2


def pretraining_overlap(names: Sequence[str], known: str) -> str:
    """Return a note that ImageNet backbones have seen these images, or an empty string.

    Args:
        names: File names of the dataset, with or without folders.
        known: Known overlap of the dataset (``TransferDataModule.overlap``), or an empty string.

    >>> pretraining_overlap(["cat/1.jpg"], "")
    ''
    >>> pretraining_overlap(["cat/n02085620_7.JPEG"], "")[:58]
    'pretraining overlap: 100% of the file names follow the Ima'
    """
    reason = known
    if not reason:
        named = sum(bool(_IMAGENET.fullmatch(name.rsplit("/", 1)[-1])) for name in names)
        if named <= _MIN_FRACTION * len(names):
            return ""
        reason = (
            f"{100 * named / len(names):.0f}% of the file names follow the ImageNet pattern "
            "(n02085620_10074.jpg)"
        )
    return f"pretraining overlap: {reason}; ImageNet backbones have seen these images"
