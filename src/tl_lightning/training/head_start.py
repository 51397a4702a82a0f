"""Start of the head on a pretrained network: a linear probe, with and without moved statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray

from tl_lightning.callbacks.model_checkpoint import SelectionCheckpoint
from tl_lightning.data.cache.features import Features
from tl_lightning.data.samplers.domain import spread
from tl_lightning.models.adaptation import DomainAdaptation
from tl_lightning.selection.callback import Validators
from tl_lightning.selection.scores import Outputs
from tl_lightning.tasks.head import Head
from tl_lightning.training.build import Parts
from tl_lightning.training.feature_extraction import fill
from tl_lightning.training.feature_plan import frozen_plan, plan
from tl_lightning.training.linear_probe import LinearProbe, fit_probe
from tl_lightning.training.statistics import measure
from tl_lightning.types import SplitKey, Stream

__all__ = ["Candidate", "Start", "measure_domains", "prepare_start"]

Array = NDArray[Any]


@dataclass
class Candidate:
    """A model without any training by gradient descent, to compare the trained one with.

    Attributes:
        name: ``frozen probe``, or ``aligned probe`` with moved statistics.
        scores: What :class:`.Validators` logs of it.
        predictions: Predicted classes ``(N,)`` of each domain's test samples.
    """

    name: str
    scores: Mapping[str, float]
    predictions: Mapping[str, Array] = field(repr=False)


@dataclass
class Start:
    """The models that a run starts from.

    Attributes:
        candidates: All of them.
        chosen: Name of the one that training starts with; empty if the head is random.
    """

    candidates: list[Candidate] = field(default_factory=list)
    chosen: str = ""


def prepare_start(parts: Parts) -> Start:
    """Measure the domains, and let the head start as a linear probe if ``head_init`` says so.

    Of the statistics of the source and the moved ones, those with the better selection score on
    the unlabelled target are kept, as the probe is the same for both.

    Args:
        parts: Objects of the run; the model and the plan of its features are changed.
    """
    run, module, trainer = parts.run, parts.module, parts.trainer
    start, probe = Start(), None
    if run.head_init == "probe":
        features = _features(parts)
        probe = _fitted(parts, features)
        _set_head(module.task.head, probe)
        start.candidates.append(_candidate("frozen probe", parts, probe, features))
        start.chosen = "frozen probe"
    if measure_domains(parts) and probe is not None:
        start.candidates.append(_candidate("aligned probe", parts, probe, _features(parts)))
        start.chosen = "aligned probe"
        if _plain_is_better(start, trainer):
            start.chosen = "frozen probe"
            _reset_statistics(parts)
    if isinstance(module, DomainAdaptation) and module.teacher is not None:
        module.teacher.copy(module.backbone, module.task)
    checkpoint = _callback(trainer, SelectionCheckpoint)
    for candidate in start.candidates:
        if candidate.name == start.chosen and checkpoint is not None:
            checkpoint.start_values = candidate.scores
    return start


def measure_domains(parts: Parts) -> bool:
    """Measure the domains if the model has layers that need it, and return whether it has.

    Args:
        parts: Objects of the run; the model and the plan of its features are changed.
    """
    run, module = parts.run, parts.module
    if not (isinstance(module, DomainAdaptation) and module.unmeasured):
        return False
    measure(module, parts.data, parts.trainer, run)
    parts.features = plan(module, parts.data, run)
    return True


def _features(parts: Parts) -> dict[SplitKey, Array]:
    """Return the features of the frozen network for the splits that the probe needs."""
    run, data = parts.run, parts.data
    source = data.key_of(Stream.SOURCE)
    splits = {k: v for k, v in data.stored_splits().items() if k == source or k.split != "train"}
    chosen = frozen_plan(parts.module, data, run, splits)
    before = dict(data.features)
    fill(chosen, parts.module, data, parts.trainer)
    found = {key: data.features[key] for key in splits}
    data.features = before
    return {key: _all_rows(rows) for key, rows in found.items()}


def _all_rows(stored: Features) -> Array:
    found: Array = stored.rows(torch.arange(stored.number)).float().numpy()
    return found


def _fitted(parts: Parts, features: Mapping[SplitKey, Array]) -> LinearProbe:
    data = parts.data
    train, learned = data.key_of(Stream.SOURCE), data.found[data.learn_from]
    assert learned.train.labels is not None
    assert learned.val.labels is not None
    return fit_probe(
        features[train], learned.train.labels, features[SplitKey(data.learn_from, "val")],
        learned.val.labels, len(data.classes),
    )  # fmt: skip


def _set_head(head: Head, probe: LinearProbe) -> None:
    layer = cast(Any, head.classifier[-1])
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(probe.weight))
        layer.bias.copy_(torch.from_numpy(probe.bias))


def _candidate(
    name: str, parts: Parts, probe: LinearProbe, features: Mapping[SplitKey, Array]
) -> Candidate:
    data, validators = parts.data, _callback(parts.trainer, Validators)
    learned = data.found[data.learn_from].val
    correct = probe.logits(features[SplitKey(data.learn_from, "val")]).argmax(1) == learned.labels
    scores = {f"{data.learn_from}/val/acc": float(np.mean(correct))}
    if validators is not None:
        outputs = {}
        for domain in data.domain_names:
            rows = features[SplitKey(domain, "val")]
            chosen = spread(len(rows), validators.samples)
            labels = data.found[domain].val.labels if domain == "source" else None
            known = None if labels is None else labels[chosen]
            outputs[domain] = Outputs(rows[chosen], probe.logits(rows[chosen]), known)
        scores |= validators.score(outputs)
        validators.best_source_acc = max(validators.best_source_acc, scores["validator/source_val"])
    tests = {domain: features[SplitKey(domain, "test")] for domain in data.domain_names}
    return Candidate(name, scores, {d: probe.logits(rows).argmax(1) for d, rows in tests.items()})


def _plain_is_better(start: Start, trainer: L.Trainer) -> bool:
    """Return whether the frozen probe has a better score than the aligned one."""
    checkpoint = _callback(trainer, SelectionCheckpoint)
    monitor = "" if checkpoint is None else str(checkpoint.monitor)
    monitor = monitor if monitor.startswith("validator/") else "validator/floored/bnm"
    plain, aligned = (one.scores.get(monitor, 0.0) for one in start.candidates)
    return plain > aligned


def _reset_statistics(parts: Parts) -> None:
    """Use the source's statistics for the target again, which the stored features depend on."""
    module = cast(DomainAdaptation, parts.module)
    for norm in module.relative_norms().values():
        norm.reset()
    parts.features = plan(module, parts.data, parts.run)


def _callback(trainer: L.Trainer, cls: type[Any]) -> Any:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return next((one for one in callbacks if isinstance(one, cls)), None)
