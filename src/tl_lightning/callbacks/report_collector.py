"""Data for the run report: features before and after training, predictions, examples."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tl_lightning.callbacks.contact_sheet import sheet_of
from tl_lightning.distributed.ranks import gathered
from tl_lightning.models.base import TransferModule
from tl_lightning.models.whole_outputs import passed
from tl_lightning.selection.domain_distance import probe_accuracy, proxy_a_distance
from tl_lightning.tasks.label_task import LabelTask
from tl_lightning.types import DOMAINS, Stream

__all__ = ["PROJECTIONS", "Projection", "ReportCollector", "plane"]

Arrays = dict[str, NDArray[Any]]
Row = tuple[int, int, float, int, float]
Projection = Literal["pca", "tsne", "umap"]
PROJECTIONS: tuple[Projection, ...] = get_args(Projection)
#: Minimum number of images per domain for fitting a probe.
FEWEST = 20


class ReportCollector(L.Callback):
    """Collect test predictions, and features of some test images before and after training.

    Labels of target test images are read only during testing, after the model was chosen. The
    results of the untrained model are stored in checkpoints, since a resumed run cannot compute
    them again.

    Args:
        samples: Images per domain in the 2-D view, spread evenly over the test split.
        examples: Images per domain in the gallery, see :func:`most_wrong`; a domain without labels
            has a contact sheet instead, see :func:`.contact_sheet.sheet_of`, unless this is 0.
        projection: Projection of the features to two dimensions, see :func:`plane`.
        seed: Seed of the probe for the A-distance.
    """

    def __init__(self, *, samples: int, examples: int, projection: Projection, seed: int) -> None:
        self.samples = samples
        self.examples = examples
        self.projection = projection
        self.seed = seed
        #: Projected features of the untrained model, and the A-distance of the domains.
        self.before: dict[str, Any] = {}
        self.after: dict[str, dict[int, Tensor]] = {}
        self.chosen: dict[str, Any] = {}
        self.images: dict[str, dict[int, Tensor]] = {}
        #: Beginnings of the example texts, if the dataset consists of texts.
        self.texts: dict[str, dict[int, str]] = {}
        self.names: dict[str, Sequence[str]] = {}
        #: True class (-1 without a label), the two likeliest classes and their probabilities.
        self.scores: dict[str, dict[int, Row]] = {}
        #: Label and prediction ``(K,)`` of every tested sample if labels are not classes, as they
        #: are shown, see :meth:`.LabelTask.values`; the label is None without one.
        self.values: dict[str, dict[int, tuple[list[float] | None, list[float]]]] = {}
        #: Whether each tested sample of the target is taken for none of the classes, if any can be.
        self.rejected: dict[int, bool] = {}
        #: Domains whose test samples have no labels.
        self.unlabelled: set[str] = set()
        self.wanted: dict[str, set[int]] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Extract features with the untrained (or pretrained) model, without labels."""
        if self.before:  # restored from a checkpoint
            return
        assert isinstance(pl_module, TransferModule)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        features: dict[str, Tensor] = {}
        with torch.random.fork_rng(devices=[]):
            for domain in data.domain_names:
                loader, indices = data.sample_loader(domain, self.samples)
                batches = passed(pl_module, Stream(domain), loader, lambda first, _: first)
                features[domain] = torch.cat(batches).float().cpu()[np.argsort(indices)]
        if trainer.is_global_zero:
            self.before = self._summary(features)

    def state_dict(self) -> dict[str, Any]:
        """Return the results of the untrained model."""
        return dict(self.before)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the results of the untrained model."""
        self.before = dict(state_dict)

    def _summary(self, features: dict[str, Tensor]) -> dict[str, Any]:
        """Return the projected features of all domains, and the A-distance of two domains."""
        result: dict[str, Any] = {}
        result["plane"] = torch.from_numpy(plane(torch.cat([*features.values()]), self.projection))
        if len(features) == 2 and min(map(len, features.values())) >= FEWEST:
            source, target = (part.numpy() for part in features.values())
            result["distance"] = proxy_a_distance(probe_accuracy(source, target, self.seed))
        return result

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the test images to project, spread evenly over the split."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        for domain in data.domain_names:
            if not data.found[domain].test.has_labels:
                self.unlabelled.add(domain)
            self.wanted[domain] = set(data.sample_indices(domain, self.samples))
            self.names[domain] = data.found[domain].test.names

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect predictions of the batch, and features of the chosen samples."""
        domain = DOMAINS[dataloader_idx]
        projected = self.wanted[domain]
        index = outputs["index"].tolist()
        assert isinstance(pl_module, TransferModule)
        if isinstance(pl_module.task, LabelTask):
            predicted = pl_module.task.values(outputs["logits"]).tolist()
            true = outputs["labels"].tolist() if "labels" in outputs else [None] * len(index)
            pairs = zip(true, predicted, strict=True)
            self.values.setdefault(domain, {}).update(zip(index, pairs, strict=True))
        else:
            rows = _rows(outputs["logits"], outputs.get("labels"))
            self.scores.setdefault(domain, {}).update(zip(index, rows, strict=True))
        if "rejected" in outputs:
            self.rejected.update(zip(index, outputs["rejected"].tolist(), strict=True))
        features = outputs["features"].cpu()
        chosen = {i: features[row] for row, i in enumerate(index) if i in projected}
        self.after.setdefault(domain, {}).update(chosen)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Merge the results of all ranks, and choose the examples and contact sheets."""
        parts: list[dict[str, Any]] = [self.scores, self.values, self.after]
        for merged in parts if trainer.world_size > 1 else ():
            for part in gathered(merged):
                for domain, rows in part.items():
                    merged.setdefault(domain, {}).update(rows)
        for part in gathered(self.rejected) if trainer.world_size > 1 else ():
            self.rejected.update(part)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        shows = trainer.is_global_zero and self.examples and self.scores
        for domain in data.domain_names if shows else ():
            scores = self.scores.get(domain, {})
            labelled = domain not in self.unlabelled
            chosen = most_wrong(scores, self.examples) if labelled else sheet_of(scores)
            self.texts[domain] = dict(zip(chosen, data.excerpts(domain, chosen), strict=False))
            if chosen and data.gives == "images":
                split = data.found[domain].test.subset(chosen)
                dataset = data.dataset(domain, split, train=False)
                images = dataset.__getitems__([(k, 0) for k in range(len(chosen))])["inputs"]
                self.images[domain] = dict(zip(chosen, images, strict=True))

    def arrays(self) -> Arrays:
        """Return the arrays of ``predictions.npz``: predictions, 2-D features and examples."""
        out: Arrays = {}
        for domain, scores in self.scores.items():
            known = sorted(scores)  # not all samples with trainer.limit_test_batches
            true, predicted, confidence, *_ = zip(*(scores[k] for k in known), strict=True)
            out[f"{domain}_true"] = np.array(true)
            out[f"{domain}_pred"] = np.array(predicted)
            out[f"{domain}_confidence"] = np.array(confidence, dtype=np.float32)
            out[f"{domain}_name"] = np.array([self.names[domain][k] for k in known])
            if domain == "target" and self.rejected:
                out["target_rejected"] = np.array([self.rejected[k] for k in known])
            out |= self._examples(domain, known, out)
        for domain, values in self.values.items():
            out |= self._numbers(domain, values)
        if self._complete:
            indices_by = {domain: sorted(rows) for domain, rows in self.after.items()}
            out["features_before"] = self.before["plane"].numpy()
            out["features_after"] = self._final()["plane"].numpy()
            lengths = [len(indices) for indices in indices_by.values()]
            out["features_domain"] = np.repeat(np.arange(len(lengths)), lengths)
            tested = self.scores or self.values
            rows = [np.searchsorted(sorted(tested[name]), i) for name, i in indices_by.items()]
            out["features_row"] = np.concatenate(rows)  # place in source_pred, target_pred
            if not self.scores:
                return out
            labels = [
                # Without labels, the predicted class.
                [self.scores[domain][index][domain in self.unlabelled] for index in indices]
                for domain, indices in indices_by.items()
            ]
            out["features_label"] = np.concatenate(labels)
        return out

    def _numbers(self, domain: str, values: Mapping[int, Any]) -> Arrays:
        """Return labels ``(N, K)``, if there are any, and predictions that are not classes."""
        known = sorted(values)
        true, predicted = zip(*(values[k] for k in known), strict=True)
        found = {
            f"{domain}_value": np.array(predicted, dtype=np.float32),
            f"{domain}_name": np.array([self.names[domain][k] for k in known]),
        }
        labels = {} if true[0] is None else {f"{domain}_measured": np.array(true, np.float32)}
        return found | labels

    def _examples(self, domain: str, known: list[int], predictions: Arrays) -> Arrays:
        """Return the example images or texts of a domain; vectors have none."""
        images, texts = self.images.get(domain, {}), self.texts.get(domain, {})
        rows = {index: row for row, index in enumerate(known)}
        indices = [index for index in images or texts if index in rows]
        if not indices:
            return {}
        out: Arrays = {}
        if images:
            pixels = torch.stack([images[i] for i in indices])
            out[f"examples_{domain}"] = pixels.permute(0, 2, 3, 1).numpy()
        else:
            out[f"examples_{domain}_text"] = np.array([texts[i] for i in indices])
        positions = [rows[i] for i in indices]
        if len(names := self.names.get(domain, ())):
            out[f"examples_{domain}_name"] = np.array([names[i] for i in indices])
        kinds = ("true", "pred", *(("confidence",) if domain in self.unlabelled else ()))
        for kind in kinds:
            out[f"examples_{domain}_{kind}"] = predictions[f"{domain}_{kind}"][positions]
        return out

    @property
    def _complete(self) -> bool:
        """Whether the features of all chosen samples are known before and after training."""
        if not self.before or not self.after:
            return False
        return len(self.before["plane"]) == sum(len(rows) for rows in self.after.values())

    def distances(self) -> dict[str, float]:
        """Return the proxy A-distance of the domains before training and for the chosen model.

        Both are computed on the same test images without labels, whereas the curve over epochs is
        based on validation images. Empty unless there are two domains with enough images.
        """
        if not self._complete:
            return {}
        summaries = {"before": self.before, "after": self._final()}
        return {
            f"health/a_distance_{when}": float(summary["distance"])
            for when, summary in summaries.items()
            if "distance" in summary
        }

    def _final(self) -> dict[str, Any]:
        """Return the results of the chosen model, cached since projections may be slow."""
        if not self.chosen:
            features = {
                domain: torch.stack([rows[i] for i in sorted(rows)])
                for domain, rows in self.after.items()
            }
            self.chosen = self._summary(features)
        return self.chosen


def _rows(logits: Tensor, labels: Tensor | None) -> list[Row]:
    """Return what is kept of every sample, see ``ReportCollector.scores``."""
    probabilities = logits.softmax(1)
    confidence, predicted = probabilities.max(1)
    others = probabilities.scatter(1, predicted[:, None], -1.0)
    second_confidence, second = others.max(1)
    true = torch.full_like(predicted, -1) if labels is None else labels
    columns = (true, predicted, confidence, second, second_confidence)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def most_wrong(scores: Mapping[int, Row], count: int) -> list[int]:
    """Return the samples to show: errors, the most confident first, then the least confident.

    >>> rows = {0: (1, 1, 0.6, 0, 0.4), 1: (1, 0, 0.9, 1, 0.1), 2: (0, 1, 0.7, 0, 0.3)}
    >>> most_wrong(rows | {3: (0, 0, 0.99, 1, 0.01)}, 3)
    [1, 2, 0]
    """

    def rank(index: int) -> tuple[bool, float]:
        true, predicted, confidence = scores[index][:3]
        return (True, confidence) if true == predicted else (False, -confidence)

    return sorted(scores, key=rank)[:count]


def plane(points: Tensor, projection: Projection) -> NDArray[np.float32]:
    """Project features ``(N, D)`` to ``(N, 2)`` without labels.

    ``pca``: the two directions of largest variance. ``tsne``: van der Maaten and Hinton (JMLR 9,
    2008). ``umap``: McInnes, Healy and Melville (2018), from the package umap-learn. The last two
    preserve neighbourhoods; distances between clusters are not meaningful.

    >>> plane(torch.eye(4), "pca").shape
    (4, 2)
    """
    method: Any
    if projection == "umap":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImportWarning)  # about an optional TensorFlow
            from umap import UMAP

        # With a seed UMAP uses one job only, and warns unless n_jobs=1 is passed.
        method = UMAP(n_neighbors=min(15, len(points) - 1), random_state=0, n_jobs=1)
    elif projection == "tsne":
        from sklearn.manifold import TSNE

        method = TSNE(perplexity=min(30.0, (len(points) - 1) / 3), random_state=0)
    else:
        from sklearn.decomposition import PCA

        method = PCA(n_components=2, random_state=0)
    projected: NDArray[np.float32] = method.fit_transform(points.numpy())
    return projected.astype(np.float32)
