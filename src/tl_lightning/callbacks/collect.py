"""Gather what the report draws: features before and after, predictions, examples."""

from __future__ import annotations

from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tl_lightning.modules.base import DOMAINS, TransferModule

__all__ = ["Collect"]

Arrays = dict[str, NDArray[Any]]


class Collect(L.Callback):
    """Keeps test predictions, and features of some test pictures before and after training.

    The labels of target test pictures are read only while testing, after the model was chosen.

    Args:
        samples: Pictures a domain in the 2-D view, spread over the test split.
        examples: Pictures a domain in the gallery, likewise.
    """

    def __init__(self, *, samples: int, examples: int) -> None:
        self.samples = samples
        self.examples = examples
        self.before: dict[str, dict[int, Tensor]] = {}
        self.after: dict[str, dict[int, Tensor]] = {}
        self.pictures: dict[str, dict[int, Tensor]] = {}
        self.scores: dict[str, dict[int, tuple[int, int, float]]] = {}
        self.wanted: dict[str, tuple[set[int], set[int]]] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Extract features of the untrained (or pretrained) model from pictures, without labels."""
        assert isinstance(pl_module, TransferModule)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        training = pl_module.training
        pl_module.eval()
        precision = trainer.precision_plugin.forward_context()
        with torch.random.fork_rng(devices=[]), torch.inference_mode(), precision:
            for role in data.roles:
                loader, places = data.sample_loader(role, self.samples)
                found = [
                    pl_module.task(pl_module.extract(batch["inputs"].to(pl_module.device)))[0]
                    for batch in loader
                ]
                self.before[role] = dict(zip(places, torch.cat(found).float().cpu(), strict=True))
        pl_module.train(training)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose which test pictures are drawn: spread evenly, so that every class has some."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        for role in data.roles:
            chosen = (data.sample_places(role, n) for n in (self.samples, self.examples))
            self.wanted[role] = tuple(set(places) for places in chosen)  # type: ignore[assignment]
            if f"{role}/test" in data.features:  # then test batches hold no pictures
                loader, places = data.sample_loader(role, self.examples, pictures=True)
                shown = torch.cat([batch["inputs"] for batch in loader])
                self.pictures[role] = dict(zip(places, shown, strict=True))

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the batch's predictions, and features and pictures of the chosen samples."""
        role = DOMAINS[dataloader_idx]
        drawn, shown = self.wanted[role]
        index = outputs["index"].tolist()
        confidence, predicted = outputs["logits"].softmax(1).max(1)
        rows = zip(outputs["labels"].tolist(), predicted.tolist(), confidence.tolist(), strict=True)
        self.scores.setdefault(role, {}).update(zip(index, rows, strict=True))
        features = outputs["features"].cpu()
        kept = {place: features[k] for k, place in enumerate(index) if place in drawn}
        self.after.setdefault(role, {}).update(kept)
        for k, place in enumerate(batch["index"].tolist()):
            if place in shown and batch["inputs"].dtype == torch.uint8:
                self.pictures.setdefault(role, {})[place] = batch["inputs"][k].cpu()

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Bring together what every rank has seen."""
        if trainer.world_size == 1:
            return
        for kept in (self.scores, self.after, self.pictures):
            parts: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, kept)
            for part in parts:
                for role, found in part.items():
                    kept.setdefault(role, {}).update(found)

    def arrays(self) -> Arrays:
        """Return predictions, 2-D features and examples under the report's names."""
        out: Arrays = {}
        for role, scores in self.scores.items():
            true, predicted, confidence = zip(*(scores[k] for k in sorted(scores)), strict=True)
            out[f"{role}_true"] = np.array(true)
            out[f"{role}_pred"] = np.array(predicted)
            out[f"{role}_confidence"] = np.array(confidence, dtype=np.float32)
            places = sorted(self.pictures[role])
            pixels = torch.stack([self.pictures[role][k] for k in places])
            out[f"examples_{role}"] = pixels.permute(0, 2, 3, 1).numpy()
            out[f"examples_{role}_true"] = out[f"{role}_true"][places]
            out[f"examples_{role}_pred"] = out[f"{role}_pred"][places]
        if self.before:
            places_by = {role: sorted(kept) for role, kept in self.after.items()}
            for when, kept in (("before", self.before), ("after", self.after)):
                out[f"features_{when}"] = _plane(
                    [torch.stack([kept[r][k] for k in places_by[r]]) for r in places_by]
                )
            lengths = [len(places) for places in places_by.values()]
            out["features_domain"] = np.repeat(np.arange(len(lengths)), lengths)
            labels = [out[f"{role}_true"][places] for role, places in places_by.items()]
            out["features_label"] = np.concatenate(labels)
        return out


def _plane(parts: list[Tensor]) -> NDArray[np.float32]:
    """Project features of all domains to two dimensions by one PCA."""
    from sklearn.decomposition import PCA

    points = torch.cat(parts).numpy()
    plane: NDArray[np.float32] = PCA(n_components=2, random_state=0).fit_transform(points)
    return plane.astype(np.float32)
