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
        samples: Pictures a domain in the 2-D view.
        examples: Pictures a domain in the gallery.
    """

    def __init__(self, *, samples: int, examples: int) -> None:
        self.samples = samples
        self.examples = examples
        self.before: dict[str, Tensor] = {}
        self.parts: dict[str, list[dict[str, Tensor]]] = {}
        self.pictures: dict[str, Tensor] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Extract features of the untrained (or pretrained) model from pictures, without labels."""
        assert isinstance(pl_module, TransferModule)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        training = pl_module.training
        pl_module.eval()
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            for role, loader in zip(data.roles, data.test_dataloader(), strict=True):
                found: list[Tensor] = []
                for batch in loader:
                    inputs = batch["inputs"].to(pl_module.device)
                    found.append(pl_module.task(pl_module.extract(inputs))[0].float().cpu())
                    if sum(map(len, found)) >= self.samples:
                        break
                self.before[role] = torch.cat(found)[: self.samples]
        pl_module.train(training)

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the batch's predictions on the CPU."""
        role = DOMAINS[dataloader_idx]
        kept = self.parts.setdefault(role, [])
        part = {name: value.cpu() for name, value in outputs.items()}
        if sum(len(p["features"]) for p in kept if "features" in p) >= self.samples:
            part.pop("features")
        kept.append(part)
        if role not in self.pictures:
            self.pictures[role] = batch["inputs"][: self.examples].cpu()

    def arrays(self) -> Arrays:
        """Return this rank's predictions, 2-D features and examples under the report's names."""
        out: Arrays = {}
        after: dict[str, Tensor] = {}
        for role, parts in self.parts.items():
            confidence, predicted = torch.cat([p["logits"] for p in parts]).softmax(1).max(1)
            true = torch.cat([p["labels"] for p in parts])
            out[f"{role}_true"] = true.numpy()
            out[f"{role}_pred"] = predicted.numpy()
            out[f"{role}_confidence"] = confidence.numpy()
            shown = self.pictures[role].permute(0, 2, 3, 1).contiguous().numpy()
            out[f"examples_{role}"] = shown
            out[f"examples_{role}_true"] = out[f"{role}_true"][: len(shown)]
            out[f"examples_{role}_pred"] = out[f"{role}_pred"][: len(shown)]
            after[role] = torch.cat([p["features"] for p in parts if "features" in p])
            after[role] = after[role][: self.samples]
        if self.before:
            out["features_before"] = _plane([self.before[role] for role in after])
            out["features_after"] = _plane(list(after.values()))
            lengths = [len(part) for part in after.values()]
            out["features_domain"] = np.repeat(np.arange(len(lengths)), lengths)
            out["features_label"] = np.concatenate(
                [out[f"{role}_true"][:n] for role, n in zip(after, lengths, strict=True)]
            )
        return out


def _plane(parts: list[Tensor]) -> NDArray[np.float32]:
    """Project features of all domains to two dimensions by one PCA."""
    from sklearn.decomposition import PCA

    points = torch.cat(parts).numpy()
    plane: NDArray[np.float32] = PCA(n_components=2, random_state=0).fit_transform(points)
    return plane.astype(np.float32)
