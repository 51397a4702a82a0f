"""Scores of one pretrained network on labelled samples, from its stored features."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tl_lightning.backbones.source_head import SourceHead, source_head
from tl_lightning.config.schema import RunConfig
from tl_lightning.data.domain import Split
from tl_lightning.errors import CheckpointError, ConfigError, DataError
from tl_lightning.reporting.backbones import Hits, Ranked
from tl_lightning.selection.transferability import SCORES, Sample
from tl_lightning.training.build import Parts, build
from tl_lightning.training.failures import explanation_of
from tl_lightning.training.feature_extraction import batch_of
from tl_lightning.training.head_start import frozen_features
from tl_lightning.training.linear_probe import fit_probe
from tl_lightning.types import SplitKey
from tl_lightning.utils.process import keep_memory, quiet
from tl_lightning.utils.spread import spread

__all__ = ["rank_backbone", "throughput"]

Array = NDArray[Any]

#: Samples in a batch, and number of batches, whose time is measured.
BATCH, REPEATS = 32, 3


def rank_backbone(
    run: RunConfig, name: str, folder: Path, samples: int | None, test: bool
) -> Ranked:
    """Return what a backbone is ranked by; a backbone that cannot be used is not an error.

    The scores are computed from the training split of the source, the probe is fitted to it. The
    probe's regularization is chosen by the validation accuracy that is returned.

    Args:
        run: A checked configuration with the backbone, of a model that leaves it frozen.
        name: Name of the row.
        folder: Folder of the trainer, to which nothing is written.
        samples: Largest number of samples of each split, spread evenly; None for all.
        test: Whether to return the test accuracy of the probe as well.

    Raises:
        DataError: If the data cannot be used.
    """
    quiet()
    keep_memory()
    try:
        parts = build(run, folder, samples=samples)
        return _measured(parts, name, test)
    except (ConfigError, CheckpointError) as error:
        return Ranked(name, problem=" ".join(str(error).split()))
    except (RuntimeError, MemoryError) as error:
        explanation = explanation_of(error, run)
        if explanation is None:
            raise
        return Ranked(name, problem=str(explanation))


def _measured(parts: Parts, name: str, test: bool) -> Ranked:
    source = parts.data.found["source"]
    classes = len(parts.data.classes)
    if len(np.unique(_labels(source.train))) < 2:
        raise DataError(
            f"the training samples of data={parts.data.name} have a single class, so that nothing "
            "can be ranked; use data with at least two classes in the training split"
        )
    names = ["train", "val", *(["test"] if test else [])]
    splits = {SplitKey("source", split): source.splits()[split] for split in names}
    seconds: dict[str, float] = {}
    started = time.monotonic()
    features, computed = frozen_features(parts, splits)
    seconds["features"] = time.monotonic() - started
    if not all(np.isfinite(rows).all() for rows in features.values()):
        return Ranked(name, problem="its features are not finite; set trainer.precision=32-true")
    started = time.monotonic()
    train, val = (features[SplitKey("source", split)] for split in ("train", "val"))
    labels = {split: _labels(splits[SplitKey("source", split)]) for split in names}
    probe = fit_probe(train, labels["train"], val, labels["val"], classes)
    hits = {
        split: _hits(probe.logits(features[SplitKey("source", split)]), labels[split])
        for split in names[1:]
    }
    seconds["probe"] = time.monotonic() - started
    head = source_head(_network(parts), _arguments(parts.run))
    scores, missing = _scores(train, labels["train"], head, seconds)
    network = _network(parts)
    return Ranked(
        name,
        val=hits["val"],
        test=hits.get("test"),
        scores=scores,
        missing=missing,
        width=train.shape[1],
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        speed=throughput(parts),
        seconds=seconds,
        computed=computed,
    )


def _labels(split: Split) -> Array:
    assert split.labels is not None  # those of the source
    return split.labels


def _hits(logits: Array, labels: Array) -> Hits:
    return Hits(int((logits.argmax(1) == labels).sum()), len(labels))


def _network(parts: Parts) -> torch.nn.Module:
    network: Any = parts.module.backbone
    assert isinstance(network, torch.nn.Module)
    return network


def _arguments(run: RunConfig) -> Mapping[str, Any]:
    return {**run.backbone.params, **run.backbone.consumed}


def _scores(
    features: Array, labels: Array, head: SourceHead | str, seconds: dict[str, float]
) -> tuple[dict[str, float], dict[str, str]]:
    """Return the scores, and why the others are missing; add their times to ``seconds``."""
    logits = None if isinstance(head, str) else head.logits(features)
    sample = Sample(features, labels, logits)
    scores, missing = {}, {}
    for name, score in SCORES.items():
        if score.needs_logits and isinstance(head, str):
            missing[name] = head
            continue
        started = time.monotonic()
        scores[name] = score.function(sample)
        seconds[name] = time.monotonic() - started
    return scores, missing


@torch.inference_mode()
def throughput(parts: Parts) -> float:
    """Return the training samples of the source that pass the network per second.

    Measured on the device and with the precision of the run, after one batch to warm up; the median
    of three batches of 32 samples. Loading them is not included.
    """
    split = parts.data.found["source"].train
    split = split.subset(spread(len(split), BATCH)).without_labels()
    device = parts.trainer.strategy.root_device
    inputs = batch_of(parts.data, SplitKey("source", "train"), split)["inputs"].to(device)
    module = parts.module.to(device).eval()
    times = []
    with parts.trainer.precision_plugin.forward_context():
        for _ in range(1 + REPEATS):
            started = time.perf_counter()
            module.extract(inputs)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - started)
    return len(inputs) / statistics.median(times[1:])
