"""Contact sheet of images as stored, in evaluation and with training augmentation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.data.datasets import SplitReader
from tl_lightning.data.domain import Split
from tl_lightning.data.loaders import dataset_of
from tl_lightning.data.transforms.presets import augmentation
from tl_lightning.errors import DataError
from tl_lightning.types import InputSpec
from tl_lightning.utils.plotting import INK, MUTED, SOURCE, TARGET, figure_png, short
from tl_lightning.utils.seeding import mix
from tl_lightning.utils.spread import spread

__all__ = ["augmentation_sheet"]

Pixels = NDArray[np.uint8]
ROWS, DRAWN = 4, 6


def augmentation_sheet(data: TransferDataModule, spec: InputSpec) -> bytes:
    """Return a PNG with images of each domain as stored, in evaluation, and augmented six times.

    The augmentations use seeds of epochs 0 to 5, as examples of those drawn in training.

    Args:
        data: Data module of images, after :meth:`discover`.
        spec: Input specification of the backbone.
    """
    data.check_browsable()
    if data.gives != "images":
        raise DataError(
            f"the augmentation sheet requires images, but data={data.name} provides {data.gives}; "
            "remove show=augmentations"
        )
    rows = [
        (domain, label, images)
        for domain in data.domain_names
        for label, images in _examples(data, data.found[domain].train, spec)
    ]
    titles = ["as stored", "evaluation", f"training: augment={_name(data.augment)}"]
    classes = data.classes

    def draw(figure: Any) -> None:
        grid = figure.subplots(len(rows), DRAWN + 2, squeeze=False)
        for line, (domain, label, images) in zip(grid, rows, strict=True):
            colour = SOURCE if domain == "source" else TARGET
            for axes, pixels in zip(line, images, strict=True):
                axes.imshow(pixels, interpolation="nearest")
                axes.set(xticks=[], yticks=[])
                axes.grid(visible=False)
                for side in axes.spines.values():
                    side.set_visible(False)
            known = "no label" if label is None else classes[label]
            name = short(known, 14)
            line[0].set_ylabel(f"{domain}\n{name}", color=colour, fontsize=7.5)
            height, width = images[0].shape[:2]
            line[0].set_xlabel(f"{width} x {height}", color=MUTED, fontsize=6.5)
        for axes, title in zip(grid[0], titles, strict=False):
            axes.set_title(title, color=INK, fontsize=8.5)

    return figure_png(1.25 * (DRAWN + 2), 1.35 * len(rows) + 0.3, draw)


def _examples(
    data: TransferDataModule, split: Split, spec: InputSpec
) -> list[tuple[int | None, list[Pixels]]]:
    """Return label (if any) and images of a few samples, spread over the split."""
    changes = augmentation(spec, data.augment)
    evaluation = dataset_of(split, spec, augmentation(spec, "none").geometry, None)
    training = dataset_of(split, spec, changes.geometry, None)
    stored = SplitReader(split, None, spec)
    examples = []
    for index in spread(len(split), ROWS):
        seeds = [mix(data.seed, index, epoch) for epoch in range(DRAWN)]
        keys = [(index, seed) for seed in seeds]
        augmented = changes.finish(training.__getitems__(keys)["inputs"], seeds)
        evaluated = evaluation.__getitems__([(index, 0)])["inputs"]
        images = [stored(index), *torch.cat([evaluated, augmented])]
        label = None if split.labels is None or data.of_cells else int(split.labels[index])
        examples.append((label, [_pixels(image) for image in images]))
    return examples


def _pixels(image: Tensor) -> Pixels:
    pixels: Pixels = image.permute(1, 2, 0).numpy()
    return pixels


def _name(augment: Any) -> str:
    return (
        augment if isinstance(augment, str) else ", ".join(f"{k} {v}" for k, v in augment.items())
    )
