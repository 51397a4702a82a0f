"""Generator for two synthetic domains of reviews as bags of words, in svmlight files.

    python benchmarks/vector_pair.py /tmp/two
    python scripts/train.py -m experiment=dann_amazon data.source.train=/tmp/two/books.svmlight \
        data.target.train=/tmp/two/kitchen.svmlight data.target.test=/tmp/two/kitchen_test.svmlight

Each review has 40 words from a vocabulary of 1,200. Of these, 200 occur in both domains and carry
sentiment, 500 occur only in books and 500 only in kitchen reviews. In each domain, 150 of the
domain-specific words carry sentiment too, and more strongly than the common ones, so a classifier
trained on books relies on words that do not occur in kitchen reviews. The sentiment of the words is
drawn with seed 0.
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
    """Return the sentiment of each word, from -1 to 1: common, then books, then kitchen words."""
    common = 0.35 * rng.choice([-1, 1], COMMON)
    own = [np.r_[0.9 * rng.choice([-1, 1], CLEAR), np.zeros(OWN - CLEAR)] for _ in range(2)]
    return np.concatenate([common, *own])


def reviews(rng: np.random.Generator, sentiment: Any, domain: int, number: int) -> tuple[Any, Any]:
    """Return counts ``(number, 1200)`` and labels -1 or 1."""
    labels = rng.choice([-1, 1], number)
    vocabulary = np.r_[0:COMMON, COMMON + domain * OWN : COMMON + (domain + 1) * OWN]
    counts = np.zeros((number, len(sentiment)), dtype=np.float32)
    for row, label in enumerate(labels):
        weights = 1 + label * sentiment[vocabulary]
        counts[row, vocabulary] = rng.multinomial(WORDS, weights / weights.sum())
    return counts, labels


def main(folder: Path) -> None:
    """Write books (2,000 reviews), kitchen (2,000, the target) and kitchen_test (4,000)."""
    rng = np.random.default_rng(0)
    sentiment = polarity(rng)
    folder.mkdir(parents=True, exist_ok=True)
    for name, domain, number in (
        ("books", 0, 2000),
        ("kitchen", 1, 2000),
        ("kitchen_test", 1, 4000),
    ):
        counts, labels = reviews(rng, sentiment, domain, number)
        path = folder / f"{name}.svmlight"
        dump_svmlight_file(sparse.csr_matrix(counts), labels, str(path))
        print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
