"""A contact sheet: what the model is shown of a few pictures in evaluation and in training."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tl_lightning.data.datamodules.base import TransferData
from tl_lightning.data.datasets import SplitReader
from tl_lightning.data.domain import Split
from tl_lightning.data.loaders import dataset_of
from tl_lightning.data.samplers.domain import spread
from tl_lightning.data.transforms.presets import augmentation
from tl_lightning.errors import DataError
from tl_lightning.types import InputSpec
from tl_lightning.utils.plotting import INK, MUTED, SOURCE, TARGET, picture, short
from tl_lightning.utils.seeding import mix

__all__ = ["augmentation_sheet"]

Pixels = NDArray[np.uint8]
ROWS, DRAWN = 4, 6
_WORDNET = re.compile(r"^n\d{8}[-_]")  # ImageNet's class ids say nothing to people


def augmentation_sheet(data: TransferData, spec: InputSpec) -> bytes:
    """Return a PNG: pictures of each domain as stored, in evaluation, and augmented six times.

    The augmented ones carry the seeds of epochs 0 to 5: what training draws is of this kind.

    Args:
        data: Has been discovered.
        spec: What the backbone expects.
    """
    data.browse()
    if data.gives != "pictures":
        raise DataError(
            f"data={data.name} gives {data.gives}, of which there is no sheet; leave the sheet out"
        )
    rows = [
        (role, name, shown)
        for role in data.roles
        for name, shown in _shown(data, data.found[role].train, spec)
    ]
    titles = ["as stored", "evaluation", f"training: augment={_name(data.augment)}"]
    classes = data.classes

    def draw(figure: Any) -> None:
        grid = figure.subplots(len(rows), DRAWN + 2, squeeze=False)
        for line, (role, label, shown) in zip(grid, rows, strict=True):
            colour = SOURCE if role == "source" else TARGET
            for axes, pixels in zip(line, shown, strict=True):
                axes.imshow(pixels, interpolation="nearest")
                axes.set(xticks=[], yticks=[])
                axes.grid(visible=False)
                for side in axes.spines.values():
                    side.set_visible(False)
            name = short(_WORDNET.sub("", classes[label]), 14)
            line[0].set_ylabel(f"{role}\n{name}", color=colour, fontsize=7.5)
            height, width = shown[0].shape[:2]
            line[0].set_xlabel(f"{width} x {height}", color=MUTED, fontsize=6.5)
        for axes, title in zip(grid[0], titles, strict=False):
            axes.set_title(title, color=INK, fontsize=8.5)

    return picture(1.25 * (DRAWN + 2), 1.35 * len(rows) + 0.3, draw)


def _shown(data: TransferData, split: Split, spec: InputSpec) -> list[tuple[int, list[Pixels]]]:
    """Return label and pictures of a few samples, one from each of as many classes as it has."""
    changes = augmentation(spec, data.augment)
    plain = dataset_of(split, spec, augmentation(spec, "none").geometry, None)
    training = dataset_of(split, spec, changes.geometry, None)
    stored = SplitReader(split, None, spec)
    found = []
    assert split.labels is not None
    for place in spread(len(split), ROWS):
        seeds = [mix(data.seed, place, epoch) for epoch in range(DRAWN)]
        keys = [(place, seed) for seed in seeds]
        drawn = changes.finish(training.__getitems__(keys)["inputs"], seeds)
        evaluated = plain.__getitems__([(place, 0)])["inputs"]
        whole = torch.cat([evaluated, drawn])
        pictures = [stored(place), *whole]
        found.append((int(split.labels[place]), [_pixels(shown) for shown in pictures]))
    return found


def _pixels(shown: Tensor) -> Pixels:
    pixels: Pixels = shown.permute(1, 2, 0).numpy()
    return pixels


def _name(augment: Any) -> str:
    return (
        augment if isinstance(augment, str) else ", ".join(f"{k} {v}" for k, v in augment.items())
    )
