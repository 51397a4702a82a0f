"""Start of the head on a pretrained network, with and without moved statistics."""

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
from tl_lightning.data.domain import Split
from tl_lightning.methods.components.class_sets import RecognisesUnknown
from tl_lightning.models.adaptation import DomainAdaptation
from tl_lightning.selection.callback import Validators
from tl_lightning.selection.scores import Outputs
from tl_lightning.tasks.domain_accuracy import domain_accuracies
from tl_lightning.tasks.head import Head
from tl_lightning.training.build import Parts
from tl_lightning.training.feature_extraction import fill
from tl_lightning.training.feature_plan import frozen_plan, plan
from tl_lightning.training.head_fit import FittedHead, fit_head
from tl_lightning.training.linear_probe import LinearProbe, fit_probe
from tl_lightning.training.statistics import measure
from tl_lightning.types import SplitKey, Stream
from tl_lightning.utils.callbacks import find_callback
from tl_lightning.utils.seeding import mix
from tl_lightning.utils.spread import spread

__all__ = [
    "Candidate", "Interpolated", "Start", "align_features", "frozen_features", "measure_domains",
    "prepare_start",
]  # fmt: skip

Array = NDArray[Any]
Probe = LinearProbe | FittedHead


@dataclass
class Candidate:
    """A model whose network has not been trained, to compare the trained one with.

    Attributes:
        name: ``frozen probe``, or what was adapted without training: ``probe, relative_bn``,
            ``probe, align`` or ``probe, relative_bn, align``.
        scores: What :class:`.Validators` logs of it, to compare it with other candidates.
        predictions: Predicted classes ``(N,)`` of each domain's test samples.
        mix: The class frequencies ``(K,)`` that it estimates for the target, see
            :class:`.Validators`.
        relative: The scores that refer to these frequencies, to compare it with trained models.
    """

    name: str
    scores: Mapping[str, float]
    predictions: Mapping[str, Array] = field(repr=False)
    mix: Array | None = None
    relative: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Interpolated:
    """A model between the start and the selected one, see :mod:`.interpolation`.

    Attributes:
        alpha: Weight of the selected model.
        score: Score by the selection rule, if it has one.
        source_val: Accuracy on source validation.
        chosen: Whether it is the model that is tested.
    """

    alpha: float
    score: float | None
    source_val: float
    chosen: bool


@dataclass
class Start:
    """The models that a run starts from.

    Attributes:
        candidates: All of them.
        chosen: Name of the one that training starts with; empty if the head is random.
        interpolated: Models between that one and the selected one, compared after training.
        selected: Score of the selected model in that comparison.
    """

    candidates: list[Candidate] = field(default_factory=list)
    chosen: str = ""
    interpolated: list[Interpolated] = field(default_factory=list)
    selected: float | None = None


def prepare_start(parts: Parts) -> Start:
    """Measure the domains, and fit the head to the frozen network if ``head_init`` says so.

    Batch norm statistics and features are moved for the target only if the selection score on the
    unlabelled target is not worse with them; the probe is the same.

    Args:
        parts: Objects of the run; the model and the plan of its features are changed.
    """
    run, module, trainer = parts.run, parts.module, parts.trainer
    start, probe, features = Start(), None, dict[SplitKey, Array]()
    if run.head_init == "probe":
        features = _features(parts)
        probe = _fitted(parts, features)
        probe.write(module.task.head)
        _fit_methods(parts, probe, features)
        start.candidates.append(_candidate("frozen probe", parts, probe, features))
        start.chosen = "frozen probe"
    if measure_domains(parts) and probe is not None:
        adapted = _features(parts)
        moved = _candidate("probe, relative_bn", parts, probe, adapted)
        if _accepted(start, moved, trainer):
            features = adapted
        else:
            _reset_statistics(parts)
    if align_features(parts) and probe is not None:
        suffix = start.chosen.removeprefix("frozen ").removeprefix("probe")
        moved = _candidate(f"probe{suffix}, align", parts, probe, features)
        if not _accepted(start, moved, trainer):
            cast(Any, module).alignment.reset()
    if isinstance(module, DomainAdaptation):
        module.fitted_head = run.head_init == "probe" or run.init is not None
        if module.teacher is not None:
            module.teacher.copy(module.backbone, module.task)
    validators = find_callback(trainer, Validators)
    checkpoint = find_callback(trainer, SelectionCheckpoint)
    if checkpoint is not None:
        checkpoint.keeps_start = run.interpolation is not None
    for candidate in start.candidates:
        if candidate.name == start.chosen:
            if checkpoint is not None:
                checkpoint.start_values = {**candidate.scores, **candidate.relative}
            if validators is not None:
                validators.mix = candidate.mix
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


def align_features(parts: Parts) -> bool:
    """Fit the map of the target's features if the model has one, and return whether it has.

    Without stored features this is left to the model, see :meth:`DomainAdaptation.align`.

    Args:
        parts: Objects of the run; the model is changed.
    """
    run, module, data = parts.run, parts.module, parts.data
    layer = module.alignment if isinstance(module, DomainAdaptation) else None
    stored = run.head_init == "probe" or parts.features.mode == "full"
    if layer is None or not stored:
        return False
    keys = [data.key_of(stream) for stream in (Stream.SOURCE, Stream.TARGET)]
    splits = {key: data.found[key.domain].train for key in keys}
    if parts.features.mode != "full":  # otherwise, all of them are needed anyway
        splits = {k: v.subset(spread(len(v), layer.samples)) for k, v in splits.items()}
    features = _features(parts, splits)
    layer.fit(*(features[key][spread(len(features[key]), layer.samples)] for key in keys))
    return True


def _features(
    parts: Parts, splits: Mapping[SplitKey, Split] | None = None
) -> dict[SplitKey, Array]:
    """Return the features of the frozen network for some splits, or those that the probe needs."""
    data = parts.data
    source = data.key_of(Stream.SOURCE)
    splits = splits or {
        k: v for k, v in data.stored_splits().items() if k == source or k.split != "train"
    }
    return frozen_features(parts, splits)[0]


def frozen_features(
    parts: Parts, splits: Mapping[SplitKey, Split]
) -> tuple[dict[SplitKey, Array], int]:
    """Return the features ``(N, D)`` of the network as it is, and how many were not stored before.

    Args:
        parts: Objects of the run; the features that its data load do not change.
        splits: Splits of the data.
    """
    data = parts.data
    chosen = frozen_plan(parts.module, data, parts.run, splits)
    before = dict(data.features)
    report = fill(chosen, parts.module, data, parts.trainer)
    found = {key: data.features[key] for key in splits}
    data.features = before
    computed = sum(int(one["computed"]) for one in report.values())
    return {key: _all_rows(rows) for key, rows in found.items()}, computed


def _all_rows(stored: Features) -> Array:
    found: Array = stored.rows(torch.arange(stored.number)).float().numpy()
    return found


def _fitted(parts: Parts, features: Mapping[SplitKey, Array]) -> Probe:
    """Fit a logistic regression, or the whole head by gradient descent if it has hidden layers."""
    run, data = parts.run, parts.data
    learned = data.found[data.learn_from]
    assert learned.train.labels is not None
    assert learned.val.labels is not None
    train, val = data.key_of(Stream.SOURCE), SplitKey(data.learn_from, "val")
    # The validation samples choose the probe, also where they are trained on later.
    kept = len(learned.train) - len(learned.val) * bool(run.model.params.get("full_data"))
    samples = (
        features[train][:kept], learned.train.labels[:kept], features[val], learned.val.labels,
    )  # fmt: skip
    node, classes = run.nodes["head"], len(data.classes)
    if not Head.hidden(node.params):
        return fit_probe(*samples, classes)
    with torch.random.fork_rng(devices=[]):
        # The weights that the model's own head starts from, see build_module.
        torch.default_generator.manual_seed(mix(run.seed, 2))
        head = node.build(in_features=parts.module.backbone.out_features, num_classes=classes)
    return fit_head(head, *samples, seed=mix(run.seed, 6))


def _fit_methods(parts: Parts, probe: Probe, features: Mapping[SplitKey, Array]) -> None:
    """Fit what methods recognise unknown samples by to the source as well."""
    module, data = parts.module, parts.data
    if not isinstance(module, DomainAdaptation):
        return
    labels = data.found[data.learn_from].train.labels
    assert labels is not None
    inputs = probe.outputs(features[data.key_of(Stream.SOURCE)])[0]
    given = torch.from_numpy(np.asarray(inputs, np.float32)), torch.from_numpy(labels)
    for method in module.methods.values():
        if isinstance(method, RecognisesUnknown):
            method.fit_start(*given, seed=mix(parts.run.seed, 7))


def _candidate(
    name: str, parts: Parts, probe: Probe, features: Mapping[SplitKey, Array]
) -> Candidate:
    data, validators = parts.data, find_callback(parts.trainer, Validators)
    learned = data.found[data.learn_from].val
    logits = probe.outputs(features[SplitKey(data.learn_from, "val")])[1]
    correct = logits.argmax(1) == learned.labels
    scores = {f"{data.learn_from}/val/acc": float(np.mean(correct))}
    mix, relative = None, dict[str, float]()
    if learned.domains is not None:
        named = data.found[data.learn_from].domains
        by_domain = domain_accuracies(named, learned.domains, correct)
        scores |= {f"{data.learn_from}/val/{name}": value for name, value in by_domain.items()}
    if validators is not None:
        outputs = {}
        for domain in data.validated:
            rows = features[SplitKey(domain, "val")]
            chosen = spread(len(rows), validators.samples)
            rows = _mapped(parts, domain, rows[chosen])
            labels = data.found[domain].val.labels if domain == "source" else None
            known = None if labels is None else labels[chosen]
            outputs[domain] = Outputs(*probe.outputs(rows), known)
        values, mix = validators.score(outputs), validators.mix_of(outputs)
        scores, relative = scores | values, validators.with_mix(values, outputs, mix)
        validators.best_source_acc = max(validators.best_source_acc, scores["validator/source_val"])
    predictions = {}
    for domain in data.domain_names:
        rows = _mapped(parts, domain, features[SplitKey(domain, "test")])
        predictions[domain] = probe.outputs(rows)[1].argmax(1)
    return Candidate(name, scores, predictions, mix, relative)


def _mapped(parts: Parts, domain: str, features: Array) -> Array:
    """Return features of a domain as the head gets them."""
    layer = getattr(parts.module, "alignment", None)
    if layer is None or domain == "source":
        return features
    out: Array = layer.target(torch.from_numpy(features).to(layer.measured.device)).cpu().numpy()
    return out


def _accepted(start: Start, candidate: Candidate, trainer: L.Trainer) -> bool:
    """Add a candidate, and return whether it has at least the score of the chosen one."""
    checkpoint = find_callback(trainer, SelectionCheckpoint)
    monitor = "" if checkpoint is None else str(checkpoint.monitor)
    monitor = monitor if monitor.startswith("validator/") else "validator/floored/bnm"
    best = next(one for one in start.candidates if one.name == start.chosen)
    start.candidates.append(candidate)
    better = candidate.scores.get(monitor, 0.0) >= best.scores.get(monitor, 0.0)
    start.chosen = candidate.name if better else start.chosen
    return better


def _reset_statistics(parts: Parts) -> None:
    """Use the source's statistics for the target again, which the stored features depend on."""
    module = cast(DomainAdaptation, parts.module)
    for norm in module.relative_norms().values():
        norm.reset()
    parts.features = plan(module, parts.data, parts.run)
