"""Model selection scores without target labels; higher is better for every score.

All functions take validation outputs of one model: logits ``(N, K)``, features ``(N, D)`` and, for
the source only, labels ``(N,)``. A raw score may prefer a collapsed model (Musgrave, Belongie, Lim
(2022): Benchmarking Validation Methods for Unsupervised Domain Adaptation. arXiv:2208.07360); the
collapse filter in ``selection/collapse.py`` prevents this.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import entr, log_softmax, softmax

from tl_lightning.selection.collapse import WORST

__all__ = [
    "SCORES",
    "Outputs",
    "Pair",
    "Score",
    "balance",
    "bnm",
    "cbnm",
    "dev",
    "dev_risk",
    "entropy",
    "im",
    "iwcv",
    "ratios",
    "raw_scores",
    "snd",
    "source_val",
    "temperature",
    "weighted_risk",
]

Array = NDArray[Any]

#: Temperature of Saito et al. (2021).
TEMPERATURE = 0.05
#: Maximum number of rows compared by :func:`snd`.
NEIGHBOURS = 2000
#: Log odds are clipped to this range, so that weights stay finite.
LARGEST_LOG_ODDS = 30.0


@dataclass(frozen=True)
class Outputs:
    """Model outputs for validation images of one domain.

    Attributes:
        features: ``(N, D)``, the input of the last layer.
        logits: ``(N, K)``.
        labels: ``(N,)`` for the source, None for the target.
    """

    features: Array
    logits: Array
    labels: Array | None = None


@dataclass(frozen=True)
class Pair:
    """Model outputs for validation images of both domains."""

    source: Outputs
    target: Outputs

    @cached_property
    def weighted(self) -> tuple[Array, Array]:
        """The importance weight and the cross-entropy of every source row."""
        return _weighted(self.source, self.target.features)


def source_val(logits: Array, labels: Array) -> float:
    """Return the accuracy on labelled source images.

    >>> source_val(np.array([[2.0, 1.0], [0.0, 1.0]]), np.array([0, 0]))
    0.5
    """
    return float(np.mean(np.argmax(logits, axis=1) == labels))


def entropy(logits: Array) -> float:
    """Return the negative mean entropy of the predictions, in nats; 0 if all are certain.

    Grandvalet, Bengio (2004): Semi-supervised Learning by Entropy Minimization. NeurIPS.
    ``-mean_i H(p_i)``.

    >>> round(entropy(np.zeros((3, 2))), 3)  # minus log 2
    -0.693
    """
    return -float(entr(_probabilities(logits)).sum(axis=1).mean())


def im(logits: Array) -> float:
    """Return the mutual information of images and predictions, in nats, at most log K.

    Shi, Sha (2012): Information-Theoretical Learning of Discriminative Clusters for Unsupervised
    Domain Adaptation. ICML. ``H(mean_i p_i) - mean_i H(p_i)``.

    >>> round(im(np.array([[50.0, 0.0], [0.0, 50.0]])), 3)  # log 2
    0.693
    """
    return float(entr(_probabilities(logits).mean(axis=0)).sum()) + entropy(logits)


def bnm(logits: Array) -> float:
    """Return the nuclear norm of the prediction matrix, scaled to (0, 1].

    Cui et al. (2020): Towards Discriminability and Diversity: Batch Nuclear-norm Maximization
    under Label Insufficient Situations. CVPR. ``||P||_* / sqrt(N min(N, K))``: 1 if all
    predictions are certain and all classes equally frequent.

    >>> round(bnm(np.array([[50.0, 0.0], [0.0, 50.0]])), 3)
    1.0
    """
    p = _probabilities(logits)
    rows, columns = p.shape
    # Singular values from the smaller one of the two Gram matrices.
    gram = p.T @ p if columns <= rows else p @ p.T
    norm = np.sqrt(np.clip(np.linalg.eigvalsh(gram), 0.0, None)).sum()
    return float(norm / np.sqrt(rows * min(rows, columns)))


def temperature(logits: Array, labels: Array) -> float:
    """Return the temperature at which the predictions of labelled samples are calibrated.

    Guo, Pleiss, Sun, Weinberger (2017): On Calibration of Modern Neural Networks. ICML. It
    minimises the cross-entropy of ``logits / T``, with T in [1/50, 50]. As in Platt scaling, one
    more sample of each outcome is assumed: otherwise T would be 0 without any wrong prediction.

    Args:
        logits: ``(N, K)``.
        labels: ``(N,)``.

    >>> z, y = np.array([[4.0, 0.0]] * 4), np.array([0, 0, 0, 1])
    >>> round(4.0 / temperature(z, y), 3)  # predicts (3 + 1) / (4 + 2) = 2/3: log 2
    0.693
    """
    logits, rows = np.asarray(logits, dtype=np.float64), np.arange(len(labels))
    wrong = 1 / (len(labels) + 2)

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(logits / np.exp(log_temperature), axis=1)
        right, all_classes = scaled[rows, labels], scaled.sum(axis=1)
        others = (all_classes - right) / max(1, logits.shape[1] - 1)
        return -float(((1 - wrong) * right + wrong * others).mean())

    bound = np.log(50.0)
    return float(np.exp(minimize_scalar(loss, bounds=(-bound, bound), method="bounded").x))


def cbnm(source: Outputs, target_logits: Array) -> float:
    """Return :func:`bnm` of the target after calibration on the source.

    The nuclear norm grows with the confidence of a model, which differs between models of the same
    accuracy: after few or many steps, with or without regularization. With the temperature that
    calibrates each model on the source, models that were trained differently can be compared.

    Args:
        source: Validation outputs with labels.
        target_logits: ``(M, K)``.

    >>> source = Outputs(np.zeros((4, 1)), np.array([[4.0, 0.0]] * 4), np.array([0, 0, 0, 1]))
    >>> target = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> more = Outputs(source.features, 3 * source.logits, source.labels)
    >>> bool(np.isclose(cbnm(source, target), cbnm(more, 3 * target), rtol=1e-4))
    True
    """
    assert source.labels is not None
    return bnm(np.asarray(target_logits) / temperature(source.logits, source.labels))


def snd(logits: Array) -> float:
    """Return the soft neighbourhood density, in nats, at most log(N - 1).

    Saito et al. (2021): Tune it the Right Way: Unsupervised Validation of Domain Adaptation via
    Soft Neighborhood Density. ICCV. With ``u_i`` the prediction normalised to unit length, and
    ``q_ij = softmax_{j != i}(u_i . u_j / 0.05)``: ``mean_i H(q_i)``. At most 2,000 rows are used,
    spread evenly.

    >>> round(snd(np.zeros((5, 3))), 3)  # all equal: log 4, the maximum for five rows
    1.386
    """
    if len(logits) > NEIGHBOURS:
        logits = logits[np.linspace(0, len(logits) - 1, NEIGHBOURS).round().astype(int)]
    if len(logits) < 2:
        return 0.0
    p = _probabilities(logits)
    unit = p / np.linalg.norm(p, axis=1, keepdims=True)
    similarity = unit @ unit.T / TEMPERATURE
    np.fill_diagonal(similarity, -np.inf)
    similarity -= similarity.max(axis=1, keepdims=True)
    exp = np.exp(similarity)
    total = exp.sum(axis=1)
    np.fill_diagonal(similarity, 0.0)  # avoids 0 * inf
    return float((np.log(total) - (exp * similarity).sum(axis=1) / total).mean())


def dev(source: Outputs, target_features: Array) -> float:
    """Return the negative importance-weighted source risk with a control variate (DEV).

    You et al. (2019): Towards Accurate Model Selection in Deep Unsupervised Domain Adaptation.
    ICML. With weights ``w_i`` from :func:`ratios` and cross-entropies ``l_i`` in nats:
    ``mean(w l) + eta mean(w) - eta``, ``eta = -Cov(w l, w) / Var(w)``.

    Args:
        source: Validation outputs with labels.
        target_features: ``(M, D)``.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(200, 2))
    >>> y = (x[:, 0] > 0).astype(int)
    >>> good, bad = np.stack([-9 * x[:, 0], 9 * x[:, 0]], 1), np.zeros((200, 2))
    >>> dev(Outputs(x, good, y), x + 0.1) > dev(Outputs(x, bad, y), x + 0.1)
    True
    """
    return dev_risk(*_weighted(source, target_features))


def iwcv(source: Outputs, target_features: Array) -> float:
    """Return the negative importance-weighted source risk (IWCV).

    Sugiyama, Krauledat, Mueller (2007): Covariate Shift Adaptation by Importance Weighted Cross
    Validation. JMLR 8. ``-mean(w l)``, with weights and losses as in :func:`dev`.

    Args:
        source: Validation outputs with labels.
        target_features: ``(M, D)``.

    >>> constant = Outputs(np.zeros((8, 1)), np.zeros((8, 2)), np.zeros(8, dtype=int))
    >>> round(iwcv(constant, np.zeros((4, 1))), 3)  # weights of 1, losses of log 2
    -0.693
    """
    return weighted_risk(*_weighted(source, target_features))


def ratios(source: Array, target: Array) -> Array:
    """Return the density ratio ``p_target / p_source`` at every source row.

    Bickel, Bruckner, Scheffer (2007): Discriminative Learning for Differing Training and Test
    Distributions. ICML. A logistic regression classifies samples by domain; the ratio is its odds
    for the target times ``N_s / N_t``. The papers of :func:`dev` and :func:`iwcv` fit it on source
    training features. Here only validation features are available, so two regressions are fitted,
    each on every other source row, and weight the rows that they were not fitted on.

    Args:
        source: ``(N_s, D)``; with fewer than four rows all weights are 1.
        target: ``(N_t, D)``.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(500, 1))
    >>> w = ratios(x, x + 1)
    >>> bool(w[x[:, 0] > 1].mean() > 1 > w[x[:, 0] < 0].mean())  # the target is to the right
    True
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    if len(source) < 4:
        return np.ones(len(source))
    scaler = StandardScaler().fit(np.concatenate([source, target]).astype(np.float64))
    source, target = scaler.transform(source), scaler.transform(target)
    weights = np.empty(len(source))
    halves = np.arange(len(source)) % 2
    for half in (0, 1):
        fitted, held_out = source[halves != half], halves == half
        domains = np.repeat([0, 1], [len(fitted), len(target)])
        regression = LogisticRegression(max_iter=200, C=0.1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            regression.fit(np.concatenate([fitted, target]), domains)
        log_odds = regression.decision_function(source[held_out])
        clipped = np.clip(log_odds, -LARGEST_LOG_ODDS, LARGEST_LOG_ODDS)
        weights[held_out] = np.exp(clipped) * len(fitted) / len(target)
    return weights


def balance(logits: Array) -> tuple[float, float]:
    """Return the evenness of the predicted classes, and the fraction of classes predicted.

    ``H(mean_i p_i) / log K`` in [0, 1], and the number of distinct predicted classes divided by
    ``min(N, K)``.

    >>> evenness, fraction = balance(np.array([[50.0, 0.0, 0.0]] * 9))  # a single class
    >>> round(evenness, 3), round(fraction, 3)
    (0.0, 0.333)
    """
    rows, classes = logits.shape
    mean = _probabilities(logits).mean(axis=0)
    evenness = float(entr(mean).sum() / np.log(classes)) if classes > 1 else 1.0
    return evenness, len(np.unique(np.argmax(logits, axis=1))) / min(rows, classes)


@dataclass(frozen=True)
class Score:
    """A score that a selection rule is made of.

    Attributes:
        criterion: What the model with the highest score has, for the report.
        function: Computes it.
    """

    criterion: str
    function: Callable[[Pair], float]


#: The scores by name; each is logged after every validation and is a ``selection`` rule.
SCORES = {
    "entropy": Score("lowest prediction entropy", lambda pair: entropy(pair.target.logits)),
    "im": Score("highest information maximisation", lambda pair: im(pair.target.logits)),
    "bnm": Score("highest nuclear norm of the predictions", lambda pair: bnm(pair.target.logits)),
    "cbnm": Score(
        "highest nuclear norm of the predictions, calibrated on the source",
        lambda pair: cbnm(pair.source, pair.target.logits),
    ),
    "snd": Score("highest soft neighbourhood density", lambda pair: snd(pair.target.logits)),
    "dev": Score("lowest deep embedded validation risk", lambda pair: dev_risk(*pair.weighted)),
    "iwcv": Score(
        "lowest importance-weighted source risk", lambda pair: weighted_risk(*pair.weighted)
    ),
}


def raw_scores(source: Outputs, target: Outputs | None) -> dict[str, float]:
    """Return all scores by name before the collapse filter, with ``balance`` and ``predicted``.

    Without a target, only ``source_val`` is returned. A model with outputs that are not finite gets
    the worst value of every score.

    Raises:
        ValueError: If the source has no labels.
    """
    if source.labels is None:
        raise ValueError("the scores need Outputs(labels=...) of the source, but it is None")
    arrays = [source.features, source.logits]
    arrays += [] if target is None else [target.features, target.logits]
    names = ("source_val", *(() if target is None else (*SCORES, "balance", "predicted")))
    if not all(np.isfinite(array).all() for array in arrays):
        zeros = ("source_val", "balance", "predicted")
        return {name: 0.0 if name in zeros else WORST for name in names}
    scores = {"source_val": source_val(source.logits, source.labels)}
    if target is None:
        return scores
    pair = Pair(source, target)
    scores |= {name: score.function(pair) for name, score in SCORES.items()}
    scores["balance"], scores["predicted"] = balance(target.logits)
    return scores


def _probabilities(logits: Array) -> Array:
    p: Array = softmax(np.asarray(logits, dtype=np.float64), axis=1)
    return p


def _weighted(source: Outputs, target_features: Array) -> tuple[Array, Array]:
    """Return the importance weight and the cross-entropy of every source row."""
    assert source.labels is not None
    logp = log_softmax(np.asarray(source.logits, dtype=np.float64), axis=1)
    losses = -logp[np.arange(len(logp)), source.labels]
    return ratios(source.features, target_features), losses


def dev_risk(weights: Array, losses: Array) -> float:
    """Return :func:`dev` of importance weights and losses ``(N,)``."""
    weighted = weights * losses
    var = float(np.var(weights, ddof=1)) if len(weights) > 1 else 0.0
    eta = -float(np.cov(weighted, weights, ddof=1)[0, 1]) / var if var > 0 else 0.0
    return -float(weighted.mean() + eta * weights.mean() - eta)


def weighted_risk(weights: Array, losses: Array) -> float:
    """Return :func:`iwcv` of importance weights and losses ``(N,)``."""
    return -float(np.mean(weights * losses))
