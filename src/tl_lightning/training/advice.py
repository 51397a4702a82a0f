"""Measurements on a source and an unlabelled target before training, for the advice on both."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from tl_lightning.config.schema import RunConfig
from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.data.domain import Split
from tl_lightning.data.pretraining_overlap import pretraining_overlap
from tl_lightning.errors import DataError
from tl_lightning.methods.components.alignment import fit_map
from tl_lightning.reliability.accuracy import estimate_accuracy
from tl_lightning.reliability.label_shift import class_mix
from tl_lightning.reporting.advice import Advice
from tl_lightning.selection.advice import SMALL_SIDE, Findings, Rule, first_rule
from tl_lightning.selection.domain_distance import probe_accuracy, proxy_a_distance
from tl_lightning.selection.scores import Outputs, cbnm
from tl_lightning.training.build import Parts, build
from tl_lightning.training.feature_extraction import batch_of
from tl_lightning.training.head_start import frozen_features, measure_domains
from tl_lightning.training.linear_probe import LinearProbe, fit_probe
from tl_lightning.training.ranking import throughput
from tl_lightning.types import SplitKey
from tl_lightning.utils.process import keep_memory, quiet
from tl_lightning.utils.seeding import mix
from tl_lightning.utils.spread import spread

__all__ = ["advise"]

Array = NDArray[Any]

#: Fewest images of each domain that the distance is measured with.
FEWEST = 10
#: Steps, batch size and learning rate of the small network, see :func:`_small_network`.
STEPS, BATCH, RATE = 200, 64, 1e-3
#: Seconds that the heads of model=auto, and the probes of model=align, take on the stored features
#: of Dogs, on two cores (docs/measurements.md).
HEADS_S, PROBES_S = 12.0, 2.0
TRAIN, VAL, TARGET = (
    SplitKey("source", "train"), SplitKey("source", "val"), SplitKey("target", "train"),
)  # fmt: skip


def advise(run: RunConfig, small: RunConfig, folder: Path, samples: int) -> Advice:
    """Measure both domains, and return the advice; no target label is read.

    Args:
        run: A checked configuration of ``method=[relative_bn]`` with a pretrained backbone.
        small: The same data with a small network, trained from scratch.
        folder: Folder of the trainer, to which nothing is written.
        samples: Largest number of samples of each split, spread evenly.

    Raises:
        DataError: If a domain has too few images.
        CheckpointError: If the weights of the backbone cannot be loaded.
    """
    quiet()
    keep_memory()
    parts = build(run, folder, samples=samples)
    data = parts.data
    splits = {TRAIN: data.found["source"].train, VAL: data.found["source"].val}
    splits[TARGET] = data.found["target"].train.without_labels()
    for key, split in splits.items():
        if len(split) < FEWEST:
            raise DataError(
                f"the advice needs at least {FEWEST} images of each domain, but {key} has "
                f"{len(split)}; add images, or set model=auto without advice"
            )
    side = _side(data)
    outputs, scores, distance = _models(parts, splits)
    labels, plain = _labels(splits[VAL]), outputs["frozen probe"]
    small_val, step_s = (
        _small_network(small, folder, samples) if side <= SMALL_SIDE else (None, 0.0)
    )
    whole = data.whole or data.found
    counts = np.bincount(_labels(whole["source"].train), minlength=len(data.classes))
    names = [name for split in splits.values() for name in split.names]
    found = Findings(
        backbone=str(run.section("backbone").get("name") or type(parts.module.backbone).__name__),
        classes=len(data.classes),
        per_class=(int(counts.min()), int(np.median(counts)), int(counts.max())),
        images={name: len(domain.train) for name, domain in whole.items()},
        side=side,
        overlap=pretraining_overlap(names, data.overlap),
        source_val=float(np.mean(plain[0].argmax(1) == labels)),
        small_val=small_val,
        a_distance=distance,
        mix_distance=class_mix(plain[0], labels, plain[1]).distance,
        scores=scores,
        agreement={
            name: float(np.mean(target.argmax(1) == plain[1].argmax(1)))
            for name, (_, target) in outputs.items()
        },
    )
    estimates = {
        name: estimate_accuracy(source, labels, target)
        for name, (source, target) in outputs.items()
    }
    rule, speed = first_rule(found), throughput(parts)
    seconds, plan = _duration(rule, parts, small, speed, step_s)
    return Advice(found, rule, estimates, speed, seconds, plan)


def _models(
    parts: Parts, splits: Mapping[SplitKey, Split]
) -> tuple[dict[str, tuple[Array, Array]], dict[str, float], float]:
    """Return logits of source validation and target, and the score, of each model without training.

    The last value is the A-distance of the frozen features.
    """
    features, _ = frozen_features(parts, splits)
    labels = _labels(splits[VAL])
    source, val, target = (features[key] for key in (TRAIN, VAL, TARGET))
    if not all(np.isfinite(rows).all() for rows in features.values()):
        raise DataError(
            "the network gives features that are not finite; set trainer.precision=32-true, or "
            "check the images and the weights"
        )
    probe = fit_probe(source, _labels(splits[TRAIN]), val, labels, len(parts.data.classes))
    weight, bias = fit_map("subspace", source, target, 1.0)
    moved = {"frozen probe": target, "align": target @ weight + bias}
    distance = proxy_a_distance(probe_accuracy(source, target, parts.run.seed))
    if measure_domains(parts):
        adapted, _ = frozen_features(parts, {TARGET: splits[TARGET]})
        moved["relative_bn"] = adapted[TARGET]
    outputs = {name: (probe.logits(val), probe.logits(rows)) for name, rows in moved.items()}
    scores = {name: _score(probe, val, labels, target) for name, target in moved.items()}
    return outputs, scores, distance


def _score(probe: LinearProbe, val: Array, labels: Array, target: Array) -> float:
    return cbnm(Outputs(val, probe.logits(val), labels), probe.logits(target))


def _labels(split: Split) -> Array:
    assert split.labels is not None  # those of the source
    return split.labels


def _side(data: TransferDataModule) -> int:
    """Return the median shorter side of source images in pixels."""
    split = data.found["source"].train
    if isinstance(split.samples, np.ndarray):
        return int(min(split.samples.shape[1:3]))
    sides = []
    for path in split.subset(spread(len(split), 50)).samples:
        with Image.open(path) as image:
            sides.append(min(image.size))
    return int(np.median(sides))


def _small_network(small: RunConfig, folder: Path, samples: int) -> tuple[float, float]:
    """Train a small network on the source; return its validation accuracy, and seconds per step.

    200 steps of 64 images that are not augmented, with Adam: a few seconds, to see whether it beats
    the probe on a pretrained network, not to be used.
    """
    parts = build(small, folder, samples=samples)
    data, module = parts.data, parts.module
    source = data.found["source"]
    batches = {}
    for name, split in (("train", source.train), ("val", source.val)):
        inputs = batch_of(data, SplitKey("source", name), split.without_labels())["inputs"]
        batches[name] = inputs, torch.from_numpy(_labels(split).copy())
    (images, labels), (val_images, val_labels) = batches["train"], batches["val"]
    generator = torch.Generator().manual_seed(mix(small.seed, 9))
    optimizer = torch.optim.Adam(module.parameters(), lr=RATE)
    module.train()
    started = time.monotonic()
    for _ in range(STEPS):
        rows = torch.randint(len(images), (min(BATCH, len(images)),), generator=generator)
        optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(module(images[rows]), labels[rows])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    seconds = (time.monotonic() - started) / STEPS
    module.eval()
    with torch.inference_mode():
        parts_of = torch.split(torch.arange(len(val_images)), BATCH)
        predicted = torch.cat([module(val_images[rows]).argmax(1) for rows in parts_of])
    return float((predicted == val_labels).float().mean()), seconds


def _duration(
    rule: Rule, parts: Parts, small: RunConfig, speed: float, step_s: float
) -> tuple[float, str]:
    """Return the seconds that the advised run takes, and what they consist of."""
    whole = parts.data.whole or parts.data.found
    if rule.name == "from scratch":
        domains = whole.values()
        batch = small.batch_size
        epoch = parts.data.steps_per_epoch or max(len(one.train) for one in domains) // batch
        steps = max(1, int(small.trainer.max_epochs or 1) * epoch)
        # Both domains pass the network in every step.
        seconds = 2 * steps * step_s * batch / BATCH
        return seconds, f"{steps:,} steps of {batch} + {batch} images, {1000 * step_s:.0f} ms each"
    # The samples that have been looked at have their features stored.
    pairs = [(whole[name], domain) for name, domain in parts.data.found.items()]
    images = sum(len(all_of.train) - len(some.train) for all_of, some in pairs)
    images += sum(len(all_of.val) - len(some.val) for all_of, some in pairs)
    images += sum(len(domain.test) for domain in whole.values()) + len(whole["target"].val)
    if rule.name != "alike":  # all of the target again, with its own statistics
        images += sum(map(len, whole["target"].splits().values()))
    rest = PROBES_S if rule.name != "pretrained" else HEADS_S
    return images / speed + rest, (
        f"{images:,} images still have to pass the network, {speed:.0f} per second; then "
        f"{rest:.0f} s on stored features, also whenever it is repeated"
    )
