"""Scores of one checkpoint without target labels; of every score, higher is better.

All take arrays of one checkpoint's validation outputs: logits ``(N, K)``, features ``(N, D)`` and,
of the source alone, labels ``(N,)``. A raw score may prefer a model that has collapsed (Musgrave,
Belongie, Lim (2022): Benchmarking Validation Methods for Unsupervised Domain Adaptation.
arXiv:2208.07360); ``tl_lightning.floor`` keeps such a model from winning.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr, log_softmax, softmax

from tl_lightning.selection.collapse import WORST

__all__ = [
    "NAMES",
    "Outputs",
    "balance",
    "bnm",
    "dev",
    "entropy",
    "im",
    "iwcv",
    "ratios",
    "raw_scores",
    "snd",
    "source_val",
]

Array = NDArray[Any]

#: The scores of the target.
NAMES = ("entropy", "im", "bnm", "snd", "dev", "iwcv")
#: Of Saito et al. (2021).
TEMPERATURE = 0.05
#: Rows that :func:`snd` compares with each other at most.
NEIGHBOURS = 2000
#: Log odds beyond this are cut, so that a weight stays a finite number.
LARGEST_LOG_ODDS = 30.0


@dataclass(frozen=True)
class Outputs:
    """What a model gives for some validation pictures of one domain.

    Attributes:
        features: ``(N, D)``, as the last layer takes them.
        logits: ``(N, K)``.
        labels: ``(N,)``, of the source; the target has none.
    """

    features: Array
    logits: Array
    labels: Array | None = None


def source_val(logits: Array, labels: Array) -> float:
    """Return the accuracy on labelled source pictures.

    >>> source_val(np.array([[2.0, 1.0], [0.0, 1.0]]), np.array([0, 0]))
    0.5
    """
    return float(np.mean(np.argmax(logits, axis=1) == labels))


def entropy(logits: Array) -> float:
    """Return minus the mean entropy of the predictions, in nats: 0 where all are sure.

    Grandvalet, Bengio (2004): Semi-supervised Learning by Entropy Minimization. NeurIPS.
    ``-mean_i H(p_i)``.

    >>> round(entropy(np.zeros((3, 2))), 3)  # minus log 2
    -0.693
    """
    return -float(entr(_probabilities(logits)).sum(axis=1).mean())


def im(logits: Array) -> float:
    """Return the mutual information of pictures and predictions, in nats, at most log K.

    Shi, Sha (2012): Information-Theoretical Learning of Discriminative Clusters for Unsupervised
    Domain Adaptation. ICML. ``H(mean_i p_i) - mean_i H(p_i)``.

    >>> round(im(np.array([[50.0, 0.0], [0.0, 50.0]])), 3)  # log 2
    0.693
    """
    return float(entr(_probabilities(logits).mean(axis=0)).sum()) + entropy(logits)


def bnm(logits: Array) -> float:
    """Return the nuclear norm of the prediction matrix, scaled to (0, 1].

    Cui et al. (2020): Towards Discriminability and Diversity: Batch Nuclear-norm Maximization
    under Label Insufficient Situations. CVPR. ``||P||_* / sqrt(N min(N, K))``: 1 where all
    predictions are sure and the classes equally frequent.

    >>> round(bnm(np.array([[50.0, 0.0], [0.0, 50.0]])), 3)
    1.0
    """
    p = _probabilities(logits)
    rows, columns = p.shape
    # Singular values by the smaller of the two Gram matrices.
    gram = p.T @ p if columns <= rows else p @ p.T
    norm = np.sqrt(np.clip(np.linalg.eigvalsh(gram), 0.0, None)).sum()
    return float(norm / np.sqrt(rows * min(rows, columns)))


def snd(logits: Array) -> float:
    """Return the soft neighbourhood density, in nats, at most log(N - 1).

    Saito et al. (2021): Tune it the Right Way: Unsupervised Validation of Domain Adaptation via
    Soft Neighborhood Density. ICCV. With ``u_i`` the prediction at length 1, and
    ``q_ij = softmax_{j != i}(u_i . u_j / 0.05)``: ``mean_i H(q_i)``. Of more than 2,000 rows as
    many are taken, spread evenly.

    >>> round(snd(np.zeros((5, 3))), 3)  # all alike: log 4, the most that five rows can have
    1.386
    """
    if len(logits) > NEIGHBOURS:
        logits = logits[np.linspace(0, len(logits) - 1, NEIGHBOURS).round().astype(int)]
    if len(logits) < 2:
        return 0.0
    p = _probabilities(logits)
    unit = p / np.linalg.norm(p, axis=1, keepdims=True)
    likeness = unit @ unit.T / TEMPERATURE
    np.fill_diagonal(likeness, -np.inf)
    likeness -= likeness.max(axis=1, keepdims=True)
    share = np.exp(likeness)
    total = share.sum(axis=1)
    np.fill_diagonal(likeness, 0.0)  # its share is 0, and 0 times infinity is not
    return float((np.log(total) - (share * likeness).sum(axis=1) / total).mean())


def dev(source: Outputs, target_features: Array) -> float:
    """Return minus the importance-weighted risk on the source, with its control variate.

    You et al. (2019): Towards Accurate Model Selection in Deep Unsupervised Domain Adaptation.
    ICML. With weights ``w_i`` of :func:`ratios` and cross-entropies ``l_i`` in nats:
    ``mean(w l) + eta mean(w) - eta``, ``eta = -Cov(w l, w) / Var(w)``.

    Args:
        source: Validation outputs with labels.
        target_features: ``(M, D)``.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(200, 2))
    >>> y = (x[:, 0] > 0).astype(int)
    >>> right, wrong = np.stack([-9 * x[:, 0], 9 * x[:, 0]], 1), np.zeros((200, 2))
    >>> dev(Outputs(x, right, y), x + 0.1) > dev(Outputs(x, wrong, y), x + 0.1)
    True
    """
    return _dev(*_weighted(source, target_features))


def iwcv(source: Outputs, target_features: Array) -> float:
    """Return minus the importance-weighted risk on the source, without a control variate.

    Sugiyama, Krauledat, Mueller (2007): Covariate Shift Adaptation by Importance Weighted Cross
    Validation. JMLR 8. ``-mean(w l)``, weights and losses as in :func:`dev`.

    Args:
        source: Validation outputs with labels.
        target_features: ``(M, D)``.

    >>> alike = Outputs(np.zeros((8, 1)), np.zeros((8, 2)), np.zeros(8, dtype=int))
    >>> round(iwcv(alike, np.zeros((4, 1))), 3)  # weights of 1, losses of log 2
    -0.693
    """
    return _iwcv(*_weighted(source, target_features))


def ratios(source: Array, target: Array) -> Array:
    """Return the density ratio ``p_target / p_source`` at every source row.

    Bickel, Bruckner, Scheffer (2007): Discriminative Learning for Differing Training and Test
    Distributions. ICML. A logistic regression tells the domains apart; its odds for the target,
    times ``N_s / N_t``, are the ratio. The papers of :func:`dev` and :func:`iwcv` fit it on source
    training features; here only validation features are at hand, so two regressions are fitted,
    each on every second row of the source, and weigh the rows that they have not seen.

    Args:
        source: ``(N_s, D)``; fewer than four rows have weights of 1.
        target: ``(N_t, D)``.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(500, 1))
    >>> w = ratios(x, x + 1)
    >>> bool(w[x[:, 0] > 1].mean() > 1 > w[x[:, 0] < 0].mean())  # the target lies to the right
    True
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    if len(source) < 4:
        return np.ones(len(source))
    scaler = StandardScaler().fit(np.concatenate([source, target]).astype(np.float64))
    near, far = scaler.transform(source), scaler.transform(target)
    weights = np.empty(len(source))
    halves = np.arange(len(source)) % 2
    for half in (0, 1):
        seen, unseen = near[halves != half], halves == half
        domains = np.repeat([0, 1], [len(seen), len(far)])
        regression = LogisticRegression(max_iter=200, C=0.1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            regression.fit(np.concatenate([seen, far]), domains)
        odds = regression.decision_function(near[unseen])
        cut = np.clip(odds, -LARGEST_LOG_ODDS, LARGEST_LOG_ODDS)
        weights[unseen] = np.exp(cut) * len(seen) / len(far)
    return weights


def balance(logits: Array) -> tuple[float, float]:
    """Return how evenly the classes are predicted, and the share of them that ever is.

    ``H(mean_i p_i) / log K`` in [0, 1], and the number of classes that are some row's largest,
    divided by ``min(N, K)``.

    >>> evenness, share = balance(np.array([[50.0, 0.0, 0.0]] * 9))  # one class for everything
    >>> round(evenness, 3), round(share, 3)
    (0.0, 0.333)
    """
    rows, classes = logits.shape
    mean = _probabilities(logits).mean(axis=0)
    evenness = float(entr(mean).sum() / np.log(classes)) if classes > 1 else 1.0
    return evenness, len(np.unique(np.argmax(logits, axis=1))) / min(rows, classes)


def raw_scores(source: Outputs, target: Outputs | None) -> dict[str, float]:
    """Return every score by name, also ``balance`` and ``predicted``, before any floor.

    Without a target there is ``source_val`` alone. A model that gives anything but finite numbers
    has the worst of every score.
    """
    assert source.labels is not None
    given = [source.features, source.logits]
    given += [] if target is None else [target.features, target.logits]
    names = ("source_val", *(() if target is None else (*NAMES, "balance", "predicted")))
    if not all(np.isfinite(array).all() for array in given):
        zeros = ("source_val", "balance", "predicted")
        return {name: 0.0 if name in zeros else WORST for name in names}
    found = {"source_val": source_val(source.logits, source.labels)}
    if target is None:
        return found
    found |= {score.__name__: score(target.logits) for score in (entropy, im, bnm, snd)}
    weights, losses = _weighted(source, target.features)
    found |= {"dev": _dev(weights, losses), "iwcv": _iwcv(weights, losses)}
    found["balance"], found["predicted"] = balance(target.logits)
    return found


def _probabilities(logits: Array) -> Array:
    p: Array = softmax(np.asarray(logits, dtype=np.float64), axis=1)
    return p


def _weighted(source: Outputs, target_features: Array) -> tuple[Array, Array]:
    """Return the weight and the cross-entropy of every source row."""
    assert source.labels is not None
    logp = log_softmax(np.asarray(source.logits, dtype=np.float64), axis=1)
    losses = -logp[np.arange(len(logp)), source.labels]
    return ratios(source.features, target_features), losses


def _dev(weights: Array, losses: Array) -> float:
    weighted = weights * losses
    spread = float(np.var(weights, ddof=1)) if len(weights) > 1 else 0.0
    eta = -float(np.cov(weighted, weights, ddof=1)[0, 1]) / spread if spread > 0 else 0.0
    return -float(weighted.mean() + eta * weights.mean() - eta)


def _iwcv(weights: Array, losses: Array) -> float:
    return -float(np.mean(weights * losses))
