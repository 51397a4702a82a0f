"""Fits what is done with the outputs on the target, to the selected model and without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from tl_lightning.checkpoints.io import amend, read_checkpoint
from tl_lightning.models.whole_outputs import passed
from tl_lightning.reliability.assessment import finite_temperature
from tl_lightning.reliability.label_shift import explained, rlls
from tl_lightning.reliability.rejection import otsu, source_threshold
from tl_lightning.tasks.target_outputs import PriorCorrection, Rejection
from tl_lightning.training.build import Parts
from tl_lightning.training.head_start import frozen_features
from tl_lightning.types import SplitKey, Stream

__all__ = ["fit_outputs", "prior_shift"]

Array = NDArray[Any]


def prior_shift(
    counts: Array, source: Array, labels: Array, target: Array, scale: float
) -> tuple[Array, float]:
    """Return what is added to the logits of the target, and how far its class mix is trusted.

    The class frequencies ``q`` of the target are estimated by :func:`.rlls` from the calibrated
    probabilities ``softmax(z / T)``. Adding ``T log(q / p)`` would put ``q`` in the place of ``p``,
    which is right if the classes look the same in both domains. If they do not, ``q`` counts
    errors of the model as well; therefore the fraction :func:`.explained` of it is added.

    Args:
        counts: Samples ``(K,)`` of each class in training, which ``p`` are the frequencies of.
        source: ``z`` ``(n, K)`` of labelled source samples that the model was not trained on.
        labels: ``(n,)``.
        target: ``z`` ``(m, K)``.
        scale: Temperature ``T`` that calibrates the source.

    Returns:
        ``(K,)``, and the fraction. Nothing is added for classes that were not trained, or have no
        sample in ``labels``, nor if a domain has fewer than two samples.

    >>> logits, labels = np.log([[0.9, 0.1]] * 90 + [[0.1, 0.9]] * 90), np.repeat([0, 1], 90)
    >>> shift, fraction = prior_shift(np.array([5, 5]), logits, labels, logits[:120], 1.0)
    >>> shift.round(1).tolist(), round(fraction, 1)
    ([0.4, -0.6], 1.0)
    """
    shift = np.zeros(len(counts))
    if min(len(source), len(target)) < 2:
        return shift, 0.0
    probabilities = [softmax(one / scale, axis=1) for one in (source, target)]
    mix = rlls(probabilities[0], labels, probabilities[1])
    fraction = explained(probabilities[0], labels, probabilities[1], mix)
    prior = counts / counts.sum()
    known = (counts > 0) & (np.bincount(labels, minlength=len(counts)) > 0)
    # One more sample of the classes of training, so that none has a fraction of 0.
    mix = (len(target) * mix + prior) / (len(target) + 1)
    shift[known] = fraction * scale * np.log(mix[known] / prior[known])
    return shift, fraction


def fit_outputs(parts: Parts, chosen: Path) -> None:
    """Fit the prior correction and the rejection of the selected model, in its checkpoint.

    Uses source validation, and the target's training samples without their labels. All ranks
    compute the same; rank 0 writes.

    Args:
        parts: Objects of a run after training; the model gets the weights of ``chosen``.
        chosen: The checkpoint of the selected model; it is amended.

    Raises:
        CheckpointError: If it cannot be read or written.
    """
    task, run, data = parts.module.task, parts.run, parts.data
    if "target" not in data.found or not (
        isinstance(task.prior, PriorCorrection) or task.rejection is not None
    ):
        return
    stored = read_checkpoint(chosen)["state_dict"]
    parts.module.load_state_dict(stored)
    if isinstance(task.prior, PriorCorrection):
        task.prior.shift.zero_()  # of an earlier attempt
    source_features, source = _outputs(parts, "source", "val")
    seen = len(data.found["target"].train) > 0  # a model may not see the target before the test
    features, target = (
        _outputs(parts, "target", "train") if seen else (source_features[:0], source[:0])
    )
    labels = data.found["source"].val.labels
    assert labels is not None
    scale = finite_temperature(source, labels)
    if isinstance(task.prior, PriorCorrection):
        known = _finite(source)
        shift, task.prior.explained = prior_shift(
            _trained_counts(parts), source[known], labels[known], target[_finite(target)],
            scale if np.isfinite(scale) else 1.0,
        )  # fmt: skip
        task.prior.shift.copy_(torch.from_numpy(shift))
        target = target + shift  # as the logits that are rejected
    if task.rejection is not None:
        task.rejection.temperature.fill_(scale if np.isfinite(scale) else 1.0)
        scores = [_scores(parts, *one) for one in ((source_features, source), (features, target))]
        _fit_rejection(task.rejection, run.rejection_threshold, *scores)
    own = {f"task.{k}": v.cpu() for k, v in task.state_dict().items()
           if k.startswith(("prior.", "rejection."))}  # fmt: skip
    if parts.trainer.is_global_zero:
        amend(chosen, state_dict={**stored, **own})
    parts.trainer.strategy.barrier()


@torch.no_grad()
def _scores(parts: Parts, features: Array, logits: Array) -> Array:
    """Return by which score ``(N,)`` samples are recognised as unknown."""
    device = parts.trainer.strategy.root_device
    given = (torch.from_numpy(one).to(device) for one in (features, logits))
    task: Any = parts.module.task
    scores = task.unknown_scores(*given)
    assert scores is not None
    found: Array = scores.double().cpu().numpy()
    return found


def _fit_rejection(layer: Rejection, threshold: str | float, source: Array, target: Array) -> None:
    if threshold == "source":
        layer.threshold.fill_(source_threshold(source))
    else:
        layer.threshold.fill_(otsu(target) if threshold == "otsu" else float(threshold))


def _trained_counts(parts: Parts) -> Array:
    """Return how many samples ``(K,)`` of each class the classifier was trained with."""
    counts = np.array(parts.data.class_counts())
    balanced = parts.run.nodes["loss"].params.get("class_weights") == "balanced"
    if balanced or parts.data.sampling == "class_balanced":
        counts = (counts > 0).astype(np.int64)
    return counts


def _finite(rows: Array) -> Array:
    return np.asarray(np.isfinite(rows).all(axis=1))


def _outputs(parts: Parts, domain: str, split: str) -> tuple[Array, Array]:
    """Return the features and the logits ``(N, K)`` of a split in evaluation mode, float64."""
    module = parts.module.to(parts.trainer.strategy.root_device)
    batches = _batches(parts, SplitKey(domain, split))
    found = passed(
        module, Stream(domain), batches, lambda *both: [one.float().cpu() for one in both]
    )
    features, logits = (torch.cat(column).double().numpy() for column in zip(*found, strict=True))
    return features, logits


def _batches(parts: Parts, key: SplitKey) -> Any:
    """Yield batches of a split, of stored features if the whole network is frozen."""
    data = parts.data
    if parts.features.mode == "full":
        split = getattr(data.found[key.domain], key.split)
        rows = frozen_features(parts, {key: split})[0][key]
        found = {"inputs": torch.from_numpy(rows)}
        if split.domains is not None:
            found["domain"] = torch.from_numpy(split.domains)
        parts_of = [torch.split(part, data.eval_batch_size) for part in found.values()]
        yield from (dict(zip(found, batch, strict=True)) for batch in zip(*parts_of, strict=True))
        return
    yield from data.whole_loader(key.domain, split=key.split)
