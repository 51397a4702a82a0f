"""What a prediction depends on, as the page of ``tl-demo`` shows it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tl_lightning.callbacks.grad_cam import class_maps, spatial_layer
from tl_lightning.inference.predictor import Predictor
from tl_lightning.reporting.run.explanations import overlay
from tl_lightning.reporting.run.page import inline
from tl_lightning.types import Stream
from tl_lightning.utils.plotting import jpeg

__all__ = ["Maps"]

#: Height and width of an image on the page; smaller ones are enlarged by the browser.
SHOWN = 320


@dataclass
class Maps:
    """Grad-CAM of a model of images. Its functions run in the model's thread.

    Attributes:
        predictor: The model.
        missing: Why maps are missing; empty if they are not.
    """

    predictor: Predictor
    missing: str = ""
    _layer: nn.Module | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Find the layer whose output the map is made of."""
        if self.predictor.kind != "images":
            self.missing = f"{self.predictor.kind} have no map"
            return
        size = self.predictor.spec.size
        blank = torch.zeros(1, 3, size, size, dtype=torch.uint8)
        with torch.inference_mode(False):
            self._layer = spatial_layer(self._backbone, lambda: self._forward(blank))
        if self._layer is None:
            name = type(getattr(self._backbone, "network", self._backbone)).__name__
            self.missing = (
                f"{name} has no grid of features behind its last layers, from which a map is "
                "computed"
            )

    @property
    def _backbone(self) -> nn.Module:
        backbone: Any = self.predictor.module.backbone
        return backbone  # type: ignore[no-any-return]

    def _forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        module = self.predictor.module
        module.set_batch_domains({Stream.TARGET: len(inputs)})
        features, logits = module.task(module.extract(inputs.to(module.device)))
        return features, logits

    def images(self, inputs: Tensor) -> dict[str, str | None]:
        """Return what the network sees, and the same with the map over it, as data URLs.

        Args:
            inputs: ``(1, 3, S, S)`` uint8.
        """
        with torch.inference_mode(False):
            heat = None
            if self._layer is not None:
                own = inputs.clone()
                _, _, maps = class_maps(self._layer, lambda: self._forward(own))
                heat = maps[0].cpu().numpy()
        pixels = _shrunk(inputs)
        found: dict[str, str | None] = {"image": inline(jpeg(pixels, 90), "jpeg"), "map": None}
        if heat is not None and np.isfinite(heat).all():
            found["map"] = inline(jpeg(overlay(pixels, heat), 90), "jpeg")
        return found


def _shrunk(inputs: Tensor) -> NDArray[np.uint8]:
    images = inputs
    if images.shape[-1] > SHOWN:
        small = functional.interpolate(images.float(), (SHOWN, SHOWN), mode="area")
        images = small.round().to(torch.uint8)
    pixels: NDArray[np.uint8] = images[0].permute(1, 2, 0).contiguous().numpy()
    return pixels
