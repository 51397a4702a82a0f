"""Reader for the outputs of the runs of an accuracy study."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tl_lightning.errors import DataError
from tl_lightning.reliability.accuracy import trains_on_target
from tl_lightning.reliability.estimators import agreement, estimates
from tl_lightning.reliability.label_shift import class_mix
from tl_lightning.reliability.outputs import finite_outputs
from tl_lightning.reporting.artifacts import Array, read_predictions
from tl_lightning.reporting.formatting import domains_of, trained_on_target
from tl_lightning.reporting.sweep.page import collect

__all__ = ["Pair", "read_pairs"]


@dataclass(frozen=True)
class Pair:
    """A model and a target domain on which its accuracy is known.

    Attributes:
        data: Name of the dataset (``data.name``) up to the first underscore, so that mnist_usps and
            mnist_mnistm, which share images, are one dataset.
        domains: Source and target.
        name: Name of the model.
        seed: The run's seed.
        folder: The run's folder, relative to that of the study.
        source_samples: Number of source validation samples.
        samples: Number of target samples.
        accuracy: The true accuracy on them.
        adapted: Whether the model was trained on samples of the target.
        estimators: The estimates by name; ``seeds``, the agreement with the same model of another
            seed, if there is one; ``other``, the median of that with all models of other names on
            the same samples.
        mix_distance: True total variation between the class frequencies of both domains.
        estimated_distance: The same as estimated without target labels.
        data_node: The configuration of source and target.
        logits: ``(N, K)`` of the target samples.
        true: ``(N,)`` their labels.
    """

    data: str
    domains: str
    name: str
    seed: int
    folder: str
    source_samples: int
    samples: int
    accuracy: float
    adapted: bool
    estimators: dict[str, float]
    mix_distance: float
    estimated_distance: float
    data_node: dict[str, Any] = field(repr=False, compare=False)
    logits: Array = field(repr=False, compare=False)
    true: Array = field(repr=False, compare=False)


def read_pairs(roots: Sequence[Path]) -> tuple[list[Pair], list[str]]:
    """Return the runs below some folders that stored their outputs, and notes on excluded ones.

    Raises:
        DataError: If no run has them, or a file is corrupt.
    """
    pairs: dict[bytes, Pair] = {}
    without = trained = repeated = 0
    for root in roots:
        for report in collect(root):
            if report.get("kind") != "run" or report.get("status") != "finished":
                continue
            if trained_on_target(report):
                trained += 1
                continue
            arrays = read_predictions(root / report["folder"] / "predictions.npz", []).arrays
            if not {"source_val_logits", "source_val_true", "target_logits"} <= arrays.keys():
                without += 1
                continue
            # The model that model=auto keeps is one of its candidates, whose folder comes later.
            key = hashlib.sha256(arrays["target_logits"].tobytes()).digest()
            repeated += key in pairs
            pairs[key] = _pair(report, arrays)
    if not pairs:
        folders = ", ".join(map(str, roots))
        raise DataError(
            f"no run in {folders} stored its outputs on source validation and on a labelled target "
            f"(runs without them: {without}, trained on target labels: {trained}); train again "
            "with this version"
        )
    notes = [f"Excluded runs without stored outputs: {without}."] if without else []
    notes += [f"Excluded runs trained on target labels: {trained}."] if trained else []
    notes += [f"Repeated models counted once: {repeated}."] if repeated else []
    found = _with_agreement(list(pairs.values()))
    return sorted(found, key=lambda p: (p.data, p.domains, p.name, p.seed, p.folder)), notes


def _pair(report: Mapping[str, Any], arrays: Mapping[str, Array]) -> Pair:
    logits, true = arrays["target_logits"], arrays["target_true"]
    if "target_logits_row" in arrays:
        true = true[arrays["target_logits_row"]]
    logits, true = logits[true >= 0], true[true >= 0]
    outputs = finite_outputs(arrays["source_val_logits"], arrays["source_val_true"], logits)
    mix = class_mix(outputs.source, outputs.labels, outputs.target)
    data = report["config"].get("data") or {}
    frequencies = np.bincount(true, minlength=len(mix.source)) / len(true)
    return Pair(
        data=str(report["data"]).partition("_")[0],
        domains=_domains(data),
        data_node={key: data.get(key) for key in ("source", "target")},
        name=str(report["name"]),
        seed=int(report["seed"]),
        folder=str(report["folder"]),
        source_samples=len(outputs.labels),
        samples=len(true),
        accuracy=float(np.mean(logits.argmax(axis=1) == true)),
        adapted=trains_on_target(report["config"].get("method") or {}),
        estimators=estimates(outputs),
        mix_distance=float(np.abs(frequencies - mix.source).sum() / 2),
        estimated_distance=mix.distance,
        logits=logits,
        true=true,
    )


def _domains(data: Mapping[str, Any]) -> str:
    """Return the names of source and target.

    >>> _domains({"source": {"train": "/my/full.npz"}, "target": {"train": "/my/short.npz"}})
    'full to short'
    >>> _domains({"root": "/my", "source": {}, "target": {"shift": {"blur": 0.01, "noise": 0.0}}})
    'blur=0.01 noise=0.0'
    """
    nodes = [data.get(key) or {} for key in ("source", "target")]
    if all(node.get("train") for node in nodes):
        return " to ".join(Path(str(node["train"])).stem for node in nodes)
    if any(node.get("domain") for node in nodes):
        return domains_of(data)
    shift = nodes[1].get("shift") or {}
    return " ".join(f"{key}={value}" for key, value in shift.items())


def _with_agreement(pairs: list[Pair]) -> list[Pair]:
    """Add the agreement with other models on the same samples."""
    for pair in pairs:
        others = [
            other
            for other in pairs
            if (other.data, other.data_node) == (pair.data, pair.data_node)
            and np.array_equal(other.true, pair.true)
        ]
        seeds = [o for o in others if o.name == pair.name and o.seed != pair.seed]
        if seeds:
            following = min(seeds, key=lambda o: (o.seed < pair.seed, o.seed))
            pair.estimators["seeds"] = agreement(pair.logits, following.logits)
        different = [other for other in others if other.name != pair.name]
        if different:
            shares = [agreement(pair.logits, other.logits) for other in different]
            pair.estimators["other"] = float(np.median(shares))
    return pairs
