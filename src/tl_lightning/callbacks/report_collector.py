"""Gather what the report draws: features before and after, predictions, examples."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, get_args

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tl_lightning.models.base import DOMAINS, TransferModule
from tl_lightning.selection.domain_distance import probe_accuracy, proxy_a_distance

__all__ = ["PROJECTIONS", "Collect", "Projection", "plane"]

Arrays = dict[str, NDArray[Any]]
Projection = Literal["pca", "tsne", "umap"]
PROJECTIONS: tuple[Projection, ...] = get_args(Projection)
#: Pictures a domain below which no probe is fitted.
FEWEST = 20


class Collect(L.Callback):
    """Keeps test predictions, and features of some test pictures before and after training.

    The labels of target test pictures are read only while testing, after the model was chosen.
    What the untrained model gave goes into the checkpoints: a resumed run cannot make it again.

    Args:
        samples: Pictures a domain in the 2-D view, spread over the test split.
        examples: Pictures a domain in the gallery, likewise.
        projection: How features come to two dimensions, see :func:`plane`.
        seed: The run's seed, for the probe of the domains' distance.
    """

    def __init__(self, *, samples: int, examples: int, projection: Projection, seed: int) -> None:
        self.samples = samples
        self.examples = examples
        self.projection = projection
        self.seed = seed
        #: Features of the untrained model in two dimensions, and the domains' distance in them.
        self.before: dict[str, Any] = {}
        self.after: dict[str, dict[int, Tensor]] = {}
        self.chosen: dict[str, Any] = {}
        self.pictures: dict[str, dict[int, Tensor]] = {}
        #: How the example texts begin, where the data are texts.
        self.texts: dict[str, dict[int, str]] = {}
        self.names: dict[str, Sequence[str]] = {}
        self.scores: dict[str, dict[int, tuple[int, int, float]]] = {}
        self.wanted: dict[str, tuple[set[int], set[int]]] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Extract features of the untrained (or pretrained) model from pictures, without labels."""
        if self.before:  # of a checkpoint
            return
        assert isinstance(pl_module, TransferModule)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        training = pl_module.training
        pl_module.eval()
        precision = trainer.precision_plugin.forward_context()
        features: dict[str, Tensor] = {}
        with torch.random.fork_rng(devices=[]), torch.no_grad(), precision:
            for role in data.roles:
                loader, places = data.sample_loader(role, self.samples)
                found = [
                    pl_module.task(pl_module.extract(batch["inputs"].to(pl_module.device)))[0]
                    for batch in loader
                ]
                features[role] = torch.cat(found).float().cpu()[np.argsort(places)]
        pl_module.train(training)
        if trainer.is_global_zero:
            self.before = self._seen(features)

    def state_dict(self) -> dict[str, Any]:
        """Return what the untrained model gave."""
        return dict(self.before)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep what the untrained model gave before the run was interrupted."""
        self.before = dict(state_dict)

    def _seen(self, features: dict[str, Tensor]) -> dict[str, Any]:
        """Return features of all domains in two dimensions, and the distance of two domains."""
        found: dict[str, Any] = {}
        found["plane"] = torch.from_numpy(plane(torch.cat([*features.values()]), self.projection))
        if len(features) == 2 and min(map(len, features.values())) >= FEWEST:
            source, target = (part.numpy() for part in features.values())
            found["distance"] = proxy_a_distance(probe_accuracy(source, target, self.seed))
        return found

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose which test pictures are drawn: spread evenly, so that every class has some."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        for role in data.roles:
            chosen = (data.sample_places(role, n) for n in (self.samples, self.examples))
            self.wanted[role] = tuple(set(places) for places in chosen)  # type: ignore[assignment]
            shown_places = sorted(self.wanted[role][1])
            self.texts[role] = dict(
                zip(shown_places, data.excerpts(role, shown_places), strict=False)
            )
            self.names[role] = data.found[role].test.names
            if (
                f"{role}/test" in data.features and data.gives == "pictures"
            ):  # then test batches hold no pictures
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
            if len(self.names.get(role, ())) == len(scores):  # a stream knows no names
                out[f"{role}_name"] = np.array(self.names[role])
            pictures, texts = self.pictures.get(role, {}), self.texts.get(role, {})
            places = sorted(pictures or texts)
            if pictures:
                pixels = torch.stack([pictures[k] for k in places])
                out[f"examples_{role}"] = pixels.permute(0, 2, 3, 1).numpy()
            elif texts:
                out[f"examples_{role}_text"] = np.array([texts[k] for k in places])
            else:  # vectors are nothing to look at
                continue
            out[f"examples_{role}_true"] = out[f"{role}_true"][places]
            out[f"examples_{role}_pred"] = out[f"{role}_pred"][places]
        if self.before:
            places_by = {role: sorted(kept) for role, kept in self.after.items()}
            out["features_before"] = self.before["plane"].numpy()
            out["features_after"] = self._last()["plane"].numpy()
            lengths = [len(places) for places in places_by.values()]
            out["features_domain"] = np.repeat(np.arange(len(lengths)), lengths)
            labels = [out[f"{role}_true"][places] for role, places in places_by.items()]
            out["features_label"] = np.concatenate(labels)
        return out

    def distances(self) -> dict[str, float]:
        """Return the proxy A-distance of the domains before training and of the chosen model.

        Both are of the same test pictures, without labels; the curve over epochs is of validation
        pictures. Empty where there are not two domains, or too few pictures.
        """
        if not self.before:
            return {}
        seen = {"before": self.before, "after": self._last()}
        return {
            f"health/a_distance_{when}": float(found["distance"])
            for when, found in seen.items()
            if "distance" in found
        }

    def _last(self) -> dict[str, Any]:
        """Return what the chosen model gave; once, for a projection may take its time."""
        if not self.chosen:
            rows = {
                r: torch.stack([kept[k] for k in sorted(kept)]) for r, kept in self.after.items()
            }
            self.chosen = self._seen(rows)
        return self.chosen


def plane(points: Tensor, projection: Projection) -> NDArray[np.float32]:
    """Project features ``(N, D)`` to ``(N, 2)``, without any label.

    ``pca``: the two directions of largest variance. ``tsne``: van der Maaten and Hinton (JMLR 9,
    2008). ``umap``: McInnes, Healy and Melville (2018), by the package umap-learn. The last two
    keep neighbours together, and their distances between groups mean nothing.

    >>> plane(torch.eye(4), "pca").shape
    (4, 2)
    """
    method: Any
    if projection == "umap":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImportWarning)  # it misses a TensorFlow it could use
            from umap import UMAP

        # One job: with a seed it takes no more, and says so in a warning.
        method = UMAP(n_neighbors=min(15, len(points) - 1), random_state=0, n_jobs=1)
    elif projection == "tsne":
        from sklearn.manifold import TSNE

        method = TSNE(perplexity=min(30.0, (len(points) - 1) / 3), random_state=0)
    else:
        from sklearn.decomposition import PCA

        method = PCA(n_components=2, random_state=0)
    found: NDArray[np.float32] = method.fit_transform(points.numpy())
    return found.astype(np.float32)
