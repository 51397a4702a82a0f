"""Whether pretraining has seen the pictures that a run is tested on."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["pretraining_overlap"]

#: What ImageNet calls its pictures: n02085620_10074.JPEG, ILSVRC2012_val_00000001.JPEG.
_IMAGENET = re.compile(r"(n\d{8}_\d+|ILSVRC20\d\d_(val|test|train)_\d+)\.[A-Za-z]+$")
#: One picture may be named so by chance; a fifth of a data set is not.
_SHARE = 0.2


def pretraining_overlap(names: Sequence[str], known: str) -> str:
    """Return in one sentence that ImageNet backbones have seen these pictures, or nothing.

    Args:
        names: File names of the data set, with or without folders.
        known: What the data set says of itself (``TransferData.overlap``); empty if nothing.

    >>> pretraining_overlap(["cat/1.jpg"], "")
    ''
    >>> pretraining_overlap(["cat/n02085620_7.JPEG"], "")[:58]
    'pretraining overlap: 100 % of the files are named as Image'
    """
    reason = known
    if not reason:
        named = sum(bool(_IMAGENET.fullmatch(name.rsplit("/", 1)[-1])) for name in names)
        if named <= _SHARE * len(names):
            return ""
        reason = (
            f"{100 * named / len(names):.0f} % of the files are named as ImageNet's "
            "(n02085620_10074.jpg)"
        )
    return f"pretraining overlap: {reason}; ImageNet backbones have seen these pictures"
