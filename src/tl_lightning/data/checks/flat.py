"""Constant images, which a wrong scale or an ignored alpha channel produces."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tl_lightning.data.cache.images import ImageCache
from tl_lightning.data.domain import Split
from tl_lightning.data.io.images import open_image
from tl_lightning.data.io.pixels import is_flat
from tl_lightning.errors import DataError

__all__ = ["flat_images"]

#: Size at which large JPEGs are decoded, as in the check of all files.
SMALL = 64


def flat_images(split: Split, places: Sequence[int], cache: ImageCache | None) -> list[str]:
    """Return the names of the constant images at ``places`` of a split of files.

    Args:
        split: Files that have not been shifted; unreadable ones are passed over.
        places: Indices in the split.
        cache: Decoded images of the split, which are looked at in place of the files.
    """

    def flat(place: int) -> bool:
        try:
            image = (
                cache[cache.places[split.names[place]]]
                if cache is not None
                else open_image(Path(split.samples[place]), SMALL, split.white)
            )
        except DataError:
            return False
        return is_flat(image.permute(1, 2, 0).numpy())

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [
            split.names[place]
            for place, found in zip(places, pool.map(flat, places), strict=True)
            if found
        ]
