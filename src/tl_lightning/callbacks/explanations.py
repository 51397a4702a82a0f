"""What a run's page shows of single samples: images, maps and nearest source samples."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tl_lightning.callbacks.grad_cam import class_maps, spatial_layer
from tl_lightning.callbacks.report_collector import ReportCollector, Row
from tl_lightning.data.thumbnails import thumbnails
from tl_lightning.models.base import TransferModule
from tl_lightning.reporting.run.embedding import MOST
from tl_lightning.types import DOMAINS, Stream
from tl_lightning.utils.plotting import jpeg
from tl_lightning.utils.spread import spread

__all__ = ["Explanations", "report_callbacks", "sprite_of", "to_explain"]

Arrays = dict[str, NDArray[Any]]
#: Length of the beginning of a text in the interactive plot.
EXCERPT = 160
#: Nearest source samples of an explained one, and the size in pixels of its image in the page.
NEAREST, SHOWN = 5, 176


class Explanations(L.Callback):
    """Collect what a run's page shows of single samples, once after the test of the chosen model.

    Args:
        collector: Has the predictions, and the features of the projected samples.
        thumbnails: Height and width in pixels of the images of the projected samples; 0: none.
        explained: Number of samples with a map and the nearest source samples; 0: none.
    """

    def __init__(self, collector: ReportCollector, *, thumbnails: int, explained: int) -> None:
        self.collector = collector
        self.thumbnails = thumbnails
        self.explained = explained
        self.found: Arrays = {}
        #: Seconds that it took.
        self.seconds = 0.0

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read the images of the projected samples, and explain some predictions."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        # Both show predicted classes.
        if not (trainer.is_global_zero and self.collector.after and self.collector.scores):
            return
        assert isinstance(pl_module, TransferModule)
        started = time.monotonic()
        if self.thumbnails:
            self._thumbnails(data)
        if self.explained and data.gives == "images" and data.storable:
            self._explain(trainer, pl_module, data)
        self.seconds = time.monotonic() - started

    def arrays(self) -> Arrays:
        """Return the arrays of ``predictions.npz``.

        ``thumbnails_point`` (T,) are indices of projected samples. ``thumbnails_sprite`` is a JPEG
        file with the T images, square and ``thumbnails_side`` pixels wide, in rows of
        ``ceil(sqrt(T))``; of texts, ``thumbnails_text`` are the beginnings.

        ``explained_domain`` is 0 for the source and 1 for the target; ``explained_row`` (n,) are
        places in its predictions, ``explained_image`` (n, h, w, 3) what the network sees,
        ``explained_map`` (n, H, W) the map of the predicted class in [0, 1], or
        ``explained_text`` why there is none; ``explained_near`` (n, 5) are the projected source
        samples with the nearest features.
        """
        return self.found

    def _thumbnails(self, data: Any) -> None:
        after = self.collector.after
        points = [(name, i) for name, rows in after.items() for i in sorted(rows)]
        chosen = spread(len(points), MOST)
        self.found["thumbnails_point"] = np.array(chosen)
        by_domain = {name: [points[k][1] for k in chosen if points[k][0] == name] for name in after}
        if data.gives == "images" and data.storable:
            images = [
                thumbnails(data, domain, data.found[domain].test.subset(rows), self.thumbnails)
                for domain, rows in by_domain.items()
                if rows
            ]
            side = min(part.shape[1] for part in images)
            self.found["thumbnails_side"] = np.array(side)
            sprite = sprite_of([pixels for part in images for pixels in part], side)
            self.found["thumbnails_sprite"] = np.frombuffer(jpeg(sprite), dtype=np.uint8)
        elif data.gives == "texts":
            texts = [
                text[:EXCERPT]
                for domain, rows in by_domain.items()
                for text in data.excerpts(domain, rows)
            ]
            self.found["thumbnails_text"] = np.array(texts)

    # -- explanations ------------------------------------------------------------------------
    def _explain(self, trainer: L.Trainer, module: TransferModule, data: Any) -> None:
        domain = next(name for name in reversed(DOMAINS) if name in self.collector.scores)
        scores = self.collector.scores[domain]
        chosen = to_explain(scores, self.explained)
        split = data.found[domain].test.without_labels().subset(chosen)
        images = data.dataset(domain, split, train=False)
        with torch.inference_mode(False):
            inputs = images.__getitems__([(k, 0) for k in range(len(chosen))])["inputs"].clone()
        known = sorted(scores)
        self.found["explained_domain"] = np.array(DOMAINS.index(domain))
        self.found["explained_row"] = np.searchsorted(known, chosen)
        self.found["explained_image"] = _shrunk(inputs)
        named = None if split.domains is None else torch.from_numpy(split.domains)
        reason, features, maps = self._maps(trainer, module, Stream(domain), inputs, named)
        if maps is None:
            self.found["explained_text"] = np.array([reason])
        else:
            self.found["explained_map"] = maps.cpu().numpy().astype(np.float16)
        if features is not None and self.collector.after.get("source"):
            own = chosen if domain == "source" else []
            self.found["explained_near"] = self._nearest(features.float().cpu(), own)

    def _maps(
        self, trainer: L.Trainer, module: TransferModule, stream: Stream, inputs: Tensor,
        named: Tensor | None,
    ) -> tuple[str, Tensor | None, Tensor | None]:  # fmt: skip
        """Return why maps are missing, the features and the maps."""
        if trainer.world_size > 1:
            return "maps are computed on a single device only", None, None

        def forward(part: Tensor) -> tuple[Tensor, Tensor]:
            with trainer.precision_plugin.forward_context():
                own = None if named is None else named[: len(part)]
                return module._single_domain(stream, part, own)

        with torch.inference_mode(False):
            batch = inputs.to(module.device)
            compiled = getattr(module.backbone, "_compiled_call_impl", None) is not None
            layer = None if compiled else spatial_layer(module.backbone, lambda: forward(batch[:1]))
            if layer is not None:
                features, _, maps = class_maps(layer, lambda: forward(batch))
                return "", features, maps
            with torch.no_grad():
                features, _ = forward(batch)
        name = type(getattr(module.backbone, "network", module.backbone)).__name__
        reason = "compiled networks have no maps" if compiled else (
            f"{name} has no grid of features behind its last layers, from which a map is computed"
        )  # fmt: skip
        return reason, features, None

    def _nearest(self, features: Tensor, own: Sequence[int]) -> NDArray[np.int64]:
        """Return the projected source samples with the most similar features, the nearest first."""
        rows = self.collector.after["source"]
        order = sorted(rows)
        source = torch.stack([rows[i] for i in order]).float()
        similar = functional.normalize(features) @ functional.normalize(source).T
        for number, index in enumerate(own):
            if index in rows:
                similar[number, order.index(index)] = -torch.inf  # not its own neighbour
        nearest: NDArray[np.int64] = similar.topk(min(NEAREST, len(order))).indices.numpy()
        # The projected samples are in the order of the domains in ``after``.
        before = 0
        for name, others in self.collector.after.items():
            if name == "source":
                break
            before += len(others)
        return nearest + before


def report_callbacks(
    settings: Mapping[str, Any], seed: int
) -> tuple[ReportCollector, Explanations]:
    """Return the callbacks that collect what the page of a run shows, in their order.

    Args:
        settings: Those of ``report`` in ``conf/train.yaml``.
        seed: Seed of the run.
    """
    own = {key: settings[key] for key in ("thumbnails", "explained")}
    others = {key: value for key, value in settings.items() if key not in own}
    collector = ReportCollector(**others, seed=seed)
    return collector, Explanations(collector, **own)


def to_explain(scores: Mapping[int, Row], count: int) -> list[int]:
    """Return the samples to explain: the most confident errors, then as many right ones.

    The right ones are the most confident of different classes. Without labels, the samples are
    spread over the order of confidence.

    >>> rows = {0: (1, 1, 0.6, 0, 0.4), 1: (1, 0, 0.9, 1, 0.1), 2: (0, 1, 0.7, 0, 0.3)}
    >>> to_explain(rows | {3: (1, 1, 0.99, 0, 0.01), 4: (0, 0, 0.8, 1, 0.2)}, 4)
    [1, 2, 3, 4]
    """
    order = sorted(scores, key=lambda index: (-scores[index][2], index))
    if all(scores[index][0] < 0 for index in order):
        return [order[place] for place in spread(len(order), count)]
    wrong = [index for index in order if scores[index][0] != scores[index][1]]
    right = [index for index in order if scores[index][0] == scores[index][1]]
    firsts = {scores[index][0]: index for index in reversed(right)}.values()
    right = sorted(firsts, key=order.index) + [i for i in right if i not in set(firsts)]
    errors = wrong[: max(count // 2, count - len(right))]
    return errors + right[: count - len(errors)]


def _shrunk(images: Tensor) -> NDArray[np.uint8]:
    """Return images ``(N, 3, H, W)`` as ``(N, h, w, 3)`` of at most the size in the page."""
    if images.shape[-1] > SHOWN:
        small = functional.interpolate(images.float(), (SHOWN, SHOWN), mode="area")
        images = small.round().to(torch.uint8)
    pixels: NDArray[np.uint8] = images.permute(0, 2, 3, 1).numpy()
    return pixels


def sprite_of(images: Sequence[NDArray[np.uint8]], side: int) -> NDArray[np.uint8]:
    """Return one image with all of these ``(S, S, 3)``, row by row; larger ones are cropped.

    >>> sprite_of([np.full((2, 2, 3), k, np.uint8) for k in (1, 2, 3)], 2)[:, :, 0].tolist()
    [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 0, 0], [3, 3, 0, 0]]
    """
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / max(1, columns))
    sheet = np.zeros((rows * side, columns * side, 3), dtype=np.uint8)
    for number, pixels in enumerate(images):
        top, left = (side * place for place in divmod(number, columns))
        sheet[top : top + side, left : left + side] = pixels[:side, :side]
    return sheet
