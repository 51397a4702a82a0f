"""What a correction for other class frequencies changes, by resampling the targets of trained runs.

    python benchmarks/label_shift.py /runs/* [ratio=20] [draws=12] [domain=source]

takes the outputs on source validation and on the target's test samples of each run
(``predictions.npz``), draws target samples in proportions from ``ratio`` to 1, with the classes in
random order, and prints the accuracy without a correction and how several corrections change it:
the mean over the draws, and the worst draw. Labels of the target are used to draw and to count
only. With ``domain=source``, the source's test samples are drawn, which differ in nothing else.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from class_sets import falling
from numpy.typing import NDArray
from scipy.special import softmax

from tl_lightning.reliability.assessment import finite_temperature
from tl_lightning.training.outputs import prior_shift
from tl_lightning.utils.probabilities import likely_frequencies

Array = NDArray[Any]


def corrections(source: Array, labels: Array, target: Array) -> dict[str, Array]:
    """Return what is added to the logits of the target by each correction, ``(K,)``.

    Args:
        source: Logits ``(n, K)`` of source validation.
        labels: ``(n,)``.
        target: Logits ``(m, K)``.
    """
    counts = np.maximum(np.bincount(labels, minlength=source.shape[1]), 1)
    scale = finite_temperature(source, labels)
    likely = likely_frequencies(counts, softmax(target / scale, axis=1))
    reduced, fraction = prior_shift(counts, source, labels, target, scale)
    return {
        "MLLS": scale * np.log(likely / (counts / counts.sum())),
        "RLLS": reduced / fraction if fraction else np.zeros_like(reduced),
        "RLLS, reduced": reduced,
    }


def drawn(true: Array, ratio: float, rng: np.random.Generator) -> Array:
    """Return the indices of samples in proportions from ``ratio`` to 1."""
    classes = rng.permutation(np.unique(true))
    rows = [rng.permutation(np.flatnonzero(true == one)) for one in classes]
    numbers = falling([len(one) for one in rows], ratio, least=3)
    return np.concatenate([one[:number] for one, number in zip(rows, numbers, strict=True)])


def main(arguments: list[str]) -> None:
    """Print a line per run."""
    options = dict(item.split("=", 1) for item in arguments if "=" in item)
    ratio, draws = float(options.get("ratio", 20)), int(options.get("draws", 12))
    domain = options.get("domain", "target")
    for folder in (Path(item) for item in arguments if "=" not in item):
        found = np.load(folder / "predictions.npz")
        source, target = (found[f"{name}_logits"].astype(float) for name in ("source_val", domain))
        labels, true = found["source_val_true"], found[f"{domain}_true"]
        rng, plain, changes = np.random.default_rng(0), [], []
        for _ in range(draws):
            rows = drawn(true, ratio, rng)
            shifts = (0, *corrections(source, labels, target[rows]).values())
            found = [np.mean((target[rows] + one).argmax(axis=1) == true[rows]) for one in shifts]
            plain.append(found[0])
            changes.append(np.subtract(found[1:], found[0]))
        mean, worst = 100 * np.mean(changes, axis=0), 100 * np.min(changes, axis=0)
        cells = (f"{one:+.1f} ({least:+.1f})" for one, least in zip(mean, worst, strict=True))
        print(f"| {folder.name} | {100 * np.mean(plain):.1f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(sys.argv[1:])
