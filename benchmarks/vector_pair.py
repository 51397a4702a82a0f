"""Two made-up domains of reviews as bags of words, in svmlight files.

    python benchmarks/vector_pair.py /tmp/two
    python scripts/train.py -m experiment=dann_amazon data.source.train=/tmp/two/books.svmlight \
        data.target.train=/tmp/two/kitchen.svmlight data.target.test=/tmp/two/kitchen_test.svmlight

Each review has 40 words of a vocabulary of 1,200. Of those 200 praise or blame in both domains,
500 are said in books alone and 500 in kitchens alone; of each domain's own words 150 praise or
blame too, and more clearly than the common ones, so that a classifier of books leans on words that
no kitchen knows. What a word of praise is was drawn once, with the seed 0.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.datasets import dump_svmlight_file

COMMON, OWN, CLEAR, WORDS = 200, 500, 150, 40


def polarity(rng: np.random.Generator) -> Any:
    """Return how much each word says, from -1 to 1: common words, then books', then kitchens'."""
    common = 0.35 * rng.choice([-1, 1], COMMON)
    own = [np.r_[0.9 * rng.choice([-1, 1], CLEAR), np.zeros(OWN - CLEAR)] for _ in range(2)]
    return np.concatenate([common, *own])


def reviews(rng: np.random.Generator, said: Any, domain: int, number: int) -> tuple[Any, Any]:
    """Return counts ``(number, 1200)`` and labels -1 or 1."""
    labels = rng.choice([-1, 1], number)
    known = np.r_[0:COMMON, COMMON + domain * OWN : COMMON + (domain + 1) * OWN]
    counts = np.zeros((number, len(said)), dtype=np.float32)
    for row, label in enumerate(labels):
        weights = 1 + label * said[known]
        counts[row, known] = rng.multinomial(WORDS, weights / weights.sum())
    return counts, labels


def main(folder: Path) -> None:
    """Write books (2,000 reviews), kitchen (2,000 to adapt to) and kitchen_test (4,000)."""
    rng = np.random.default_rng(0)
    said = polarity(rng)
    folder.mkdir(parents=True, exist_ok=True)
    for name, domain, number in (
        ("books", 0, 2000),
        ("kitchen", 1, 2000),
        ("kitchen_test", 1, 4000),
    ):
        counts, labels = reviews(rng, said, domain, number)
        path = folder / f"{name}.svmlight"
        dump_svmlight_file(sparse.csr_matrix(counts), labels, str(path))
        print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
