"""Probable label errors, outliers and ambiguous samples, found in the features of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray

from tl_lightning.config.schema import RunConfig
from tl_lightning.data.datamodules.image import ImageDataModule
from tl_lightning.data.domain import Split
from tl_lightning.data.thumbnails import thumbnails
from tl_lightning.errors import DataError
from tl_lightning.training.build import Parts
from tl_lightning.training.fit import extract
from tl_lightning.training.linear_probe import STRENGTHS, fit_probe
from tl_lightning.utils.plotting import jpeg
from tl_lightning.utils.spread import spread
from tl_lightning.utils.text import printable, shorten

__all__ = [
    "Finding", "Quality", "Suspect", "data_quality", "listed_images", "out_of_fold", "suspects",
]  # fmt: skip

Array = NDArray[Any]
Kind = Literal["label_error", "outlier", "ambiguous"]

#: Parts of the cross-validation; classes with fewer samples are left out.
FOLDS = 5
#: The neighbour whose distance says how unusual a sample is, and samples that it is taken from.
NEIGHBOURS, REFERENCE = 10, 10_000
#: Fraction of a domain that is listed as outliers and as ambiguous, and bounds of their number.
SHARE, FEWEST, MOST = 0.01, 20, 500
#: Number of images per list and domain in the page, and their size in pixels.
SHOWN, SIDE = 60, 160


@dataclass(frozen=True)
class Suspect:
    """One sample to look at.

    Attributes:
        index: Index of the sample.
        suggested: Label that the other samples suggest; None for an outlier.
        score: Label errors: probability of the given label. Outliers: distance of the tenth nearest
            sample, relative to the median of all samples. Ambiguous ones: difference of the
            probabilities of the two likeliest classes.
    """

    index: int
    suggested: int | None
    score: float


@dataclass(frozen=True)
class Finding:
    """A suspect with its file; the lists are ordered from the most to the least suspicious."""

    finding: Kind
    rank: int
    domain: str
    split: str
    file: str
    label: str | None
    suggested: str | None
    score: float
    index: int = field(repr=False)


@dataclass(frozen=True)
class Quality:
    """What was found in a dataset.

    Attributes:
        backbone: Network of the features.
        accuracy: Accuracy of the classifiers on samples that they were not fitted to, by domain.
        samples: Number of samples by domain.
        notes: What was not examined, and why the lists may be wrong.
        findings: All lists.
    """

    backbone: str
    accuracy: Mapping[str, float]
    samples: Mapping[str, int]
    notes: Sequence[str]
    findings: Sequence[Finding]

    def plain(self) -> dict[str, Any]:
        """Return the values as JSON-serializable ones."""
        found = asdict(self)
        for row in found["findings"]:
            del row["index"]
        return found


def data_quality(run: RunConfig, folder: Path) -> tuple[Quality, Parts]:
    """Search all samples of a dataset for label errors, outliers and ambiguous ones.

    Args:
        run: A configuration with a frozen backbone whose features are stored.
        folder: A folder for what the trainer may write.

    Returns:
        What was found, and the objects built, whose data have the images.
    """
    parts = extract(run, folder)
    data, classes = parts.data, parts.data.classes
    notes = [] if run.starts_trained else [
        "the backbone has random weights, so the lists are hardly better than those of pixels; set "
        "a pretrained one, such as backbone=mobilenet_v2"
    ]  # fmt: skip
    accuracy, samples, findings = {}, {}, []
    for domain in data.domain_names:
        features, labels, places = _domain(parts, domain)
        _check_finite(parts, domain, features, places)
        samples[domain] = len(places)
        found, correct = suspects(features, labels, len(classes))
        if labels is not None:
            few = np.flatnonzero(_few(labels, len(classes)))
            if len(few):
                names = shorten([printable(classes[k]) for k in few])
                notes.append(
                    f"{domain}: labels of classes with fewer than {FOLDS} samples were not "
                    f"examined: {names}"
                )
        else:
            notes.append(f"{domain}: without labels, only outliers were searched")
        if correct is not None:
            accuracy[domain] = correct
        for kind, items in found.items():
            for rank, one in enumerate(items, start=1):
                key, index = places[one.index]
                given = None if labels is None else printable(classes[labels[one.index]])
                other = None if one.suggested is None else printable(classes[one.suggested])
                file = _file(data.found[domain].splits()[key], index)
                findings.append(
                    Finding(kind, rank, domain, key, file, given, other, one.score, index)
                )
    return Quality(_name(run), accuracy, samples, notes, findings), parts


def listed_images(quality: Quality, parts: Parts) -> dict[tuple[str, str, int], bytes]:
    """Return the first images of every list as JPEG files by finding, domain and rank."""
    shown = [one for one in quality.findings if one.rank <= SHOWN]
    found: dict[tuple[str, str, int], bytes] = {}
    for domain, split in dict.fromkeys((one.domain, one.split) for one in shown):
        rows = [one for one in shown if (one.domain, one.split) == (domain, split)]
        samples = parts.data.found[domain].splits()[split].subset([one.index for one in rows])
        images = thumbnails(cast(ImageDataModule, parts.data), domain, samples, SIDE)
        for one, pixels in zip(rows, images, strict=True):
            found[one.finding, one.domain, one.rank] = jpeg(pixels)
    return found


def _name(run: RunConfig) -> str:
    node = run.section("backbone")
    return str(node.get("name") or str(node["_target_"]).rpartition(".")[2])


def _file(split: Split, index: int) -> str:
    return printable(str(split.files[index]))


def _domain(parts: Parts, domain: str) -> tuple[Array, Array | None, list[tuple[str, int]]]:
    """Return features, labels (if any) and (split, index) of all samples, each of them once."""
    data = parts.data
    features, labels, places = [], [], []
    known: set[str] = set()
    for key in data.stored_splits():
        if key.domain != domain or key.split == "labelled":  # those are part of the others
            continue
        split = data.found[domain].splits()[key.split]
        rows = [index for index, name in enumerate(split.names) if name not in known]
        known.update(split.names)
        features.append(data.features[key].rows(torch.tensor(rows, dtype=torch.long)).float())
        labels.append(None if split.labels is None else split.labels[rows])
        places += [(key.split, index) for index in rows]
    present = [part for part in labels if part is not None]
    complete = len(present) == len(labels)
    return torch.cat(features).numpy(), np.concatenate(present) if complete else None, places


def _check_finite(
    parts: Parts, domain: str, features: Array, places: Sequence[tuple[str, int]]
) -> None:
    """Raise DataError if a feature is not finite."""
    wrong = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(wrong):
        splits = parts.data.found[domain].splits()
        rows = [places[int(k)] for k in wrong]
        files = [_file(splits[split], index) for split, index in rows]
        raise DataError(
            f"the features of {len(wrong):,} of {len(features):,} samples of the {domain} are not "
            f"finite ({shorten(files, 3)}), so that nothing can be said of the data; the network "
            "overflows or its weights are damaged; set trainer.precision=32-true, or another "
            "backbone"
        )


def _few(labels: Array, num_classes: int) -> Array:
    counts = np.bincount(labels, minlength=num_classes)
    few: Array = (counts > 0) & (counts < FOLDS)
    return few


def suspects(
    features: Array, labels: Array | None, num_classes: int
) -> tuple[dict[Kind, list[Suspect]], float | None]:
    """Return the suspicious samples of one domain, and the accuracy out of fold if there is one.

    Label errors are found by confident learning (Northcutt, Jiang and Chuang, JAIR 70, 2021) as
    implemented in cleanlab: it estimates how many labels are wrong from the probabilities of
    classifiers that were fitted without the sample, and those with the least probable label are
    listed. Outliers have the largest cosine distance to their tenth nearest sample (Ramaswamy,
    Rastogi and Shim, SIGMOD 2000), so that up to nine alike do not hide each other. Of ambiguous
    samples, two classes are about equally probable.

    Args:
        features: ``(N, D)``.
        labels: Class indices ``(N,)``, or None.
        num_classes: ``K``.
    """
    found: dict[Kind, list[Suspect]] = {}
    accuracy = None
    if labels is not None:
        kept = np.flatnonzero(~_few(labels, num_classes)[labels])
        names, given = np.unique(labels[kept], return_inverse=True)
        if len(names) > 1:
            probabilities = out_of_fold(features[kept], given, len(names))
            accuracy = float(np.mean(probabilities.argmax(1) == given))
            found = _label_suspects(probabilities, given, kept, names)
    distance = _distances(features)
    if len(distance):
        relative = distance / (float(np.median(distance)) or 1.0)
        order = np.argsort(-relative, kind="stable")[: _listed(len(relative))]
        found["outlier"] = [Suspect(int(k), None, float(relative[k])) for k in order]
    return found, accuracy


def _listed(samples: int) -> int:
    """Return how many outliers and ambiguous samples of a domain are listed.

    >>> _listed(60), _listed(500), _listed(4800), _listed(1_000_000)
    (12, 20, 48, 500)
    """
    return min(max(FEWEST, round(SHARE * samples)), MOST, samples // 5)


def _label_suspects(
    probabilities: Array, given: Array, kept: Array, names: Array
) -> dict[Kind, list[Suspect]]:
    from cleanlab.filter import find_label_issues

    # Of cleanlab's rules, this one has the best precision and recall on swapped labels of dogs, see
    # docs/measurements.md.
    wrong = find_label_issues(
        given, probabilities, filter_by="low_self_confidence",
        return_indices_ranked_by="self_confidence", n_jobs=1,
    )  # fmt: skip
    likeliest = probabilities.argmax(1)
    own = probabilities[np.arange(len(given)), given]
    two = np.sort(probabilities, axis=1)[:, -2:]
    margin = two[:, 1] - two[:, 0]
    margin[wrong] = np.inf  # listed already
    close = np.argsort(margin, kind="stable")[: min(_listed(len(given)), len(given) - len(wrong))]

    def as_suspects(rows: Array, score: Array) -> list[Suspect]:
        return [Suspect(int(kept[k]), int(names[likeliest[k]]), float(score[k])) for k in rows]

    return {"label_error": as_suspects(wrong, own), "ambiguous": as_suspects(close, margin)}


def out_of_fold(features: Array, labels: Array, num_classes: int) -> Array:
    """Return the class probabilities ``(N, K)`` of classifiers that were fitted without the sample.

    Logistic regressions on the features of four fifths of the samples; the strength of their
    regularization is chosen in the first of five rounds.

    Args:
        features: ``(N, D)``.
        labels: ``(N,)``, at least five of every class.
        num_classes: ``K``.
    """
    from sklearn.model_selection import StratifiedKFold

    found = np.zeros((len(labels), num_classes))
    strengths: Sequence[float] = STRENGTHS
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    for train, held in folds.split(features, labels):
        parts = (features[train], labels[train], features[held], labels[held])
        probe = fit_probe(*parts, num_classes, strengths)
        strengths = (probe.strength,)
        logits = probe.logits(features[held])
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        found[held] = raised / raised.sum(axis=1, keepdims=True)
    return found


def _distances(features: Array) -> Array:
    """Return the cosine distance ``(N,)`` of the tenth nearest sample; empty for too few."""
    from sklearn.neighbors import NearestNeighbors

    if len(features) <= NEIGHBOURS:
        return np.zeros(0)
    reference = spread(len(features), REFERENCE)
    search = NearestNeighbors(n_neighbors=NEIGHBOURS + 1, metric="cosine").fit(features[reference])
    distance, _ = search.kneighbors(features)
    own = np.zeros(len(features), dtype=int)
    own[reference] = 1  # the nearest one is the sample itself
    found: Array = distance[np.arange(len(features)), NEIGHBOURS - 1 + own]
    return found
