"""Model selection scores without target labels; higher is better for every score.

All functions take validation outputs of one model: logits ``(N, K)``, features ``(N, D)`` and, for
the source only, labels ``(N,)``. A raw score may prefer a collapsed model (Musgrave, Belongie, Lim
(2022): Benchmarking Validation Methods for Unsupervised Domain Adaptation. arXiv:2208.07360); the
collapse filter in ``selection/collapse.py`` prevents this.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np
import scipy  # its parts are imported when they are first used
from numpy.typing import NDArray

from tl_lightning.selection.collapse import WORST
from tl_lightning.selection.importance import dev_risk, ratios, weighted_risk
from tl_lightning.utils.probabilities import likely_frequencies, temperature

__all__ = [
    "SCORES",
    "Outputs",
    "Pair",
    "Score",
    "balance",
    "bnm",
    "cbnm",
    "dev",
    "entropy",
    "im",
    "iwcv",
    "mix_of",
    "prior_im",
    "raw_scores",
    "snd",
    "source_val",
]

Array = NDArray[Any]
Found = TypeVar("Found")

#: Temperature of Saito et al. (2021).
TEMPERATURE = 0.05
#: Maximum number of rows compared by :func:`snd`.
NEIGHBOURS = 2000


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
    """Model outputs for validation images of both domains.

    Attributes:
        source: Outputs with labels.
        target: Outputs.
        mix: Class frequencies of the target ``(K,)`` as estimated before training, if they were.
    """

    source: Outputs
    target: Outputs
    mix: Array | None = None

    @cached_property
    def calibrated(self) -> Array:
        """Logits of the target ``(M, K)``, see :func:`_calibrated`."""
        return _calibrated(self.source, self.target.logits)

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
    return -float(scipy.special.entr(_probabilities(logits)).sum(axis=1).mean())


def im(logits: Array) -> float:
    """Return the mutual information of images and predictions, in nats, at most log K.

    Shi, Sha (2012): Information-Theoretical Learning of Discriminative Clusters for Unsupervised
    Domain Adaptation. ICML. ``H(mean_i p_i) - mean_i H(p_i)``.

    >>> round(im(np.array([[50.0, 0.0], [0.0, 50.0]])), 3)  # log 2
    0.693
    """
    return float(scipy.special.entr(_probabilities(logits).mean(axis=0)).sum()) + entropy(logits)


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
    return bnm(_calibrated(source, target_logits))


def prior_im(source: Outputs, target_logits: Array, mix: Array | None = None) -> float:
    """Return the information maximisation score for a target with other class frequencies.

    ``-KL(mean_i p_i || q) - mean_i H(p_i)`` in nats, at most 0, with predictions calibrated on the
    source; :func:`im` minus ``log K`` if q is uniform. Other scores favour balanced predictions,
    which are wrong for a target that lacks classes; the entropy alone favours a single class.

    Args:
        source: Validation outputs with labels.
        target_logits: ``(M, K)``.
        mix: Class frequencies ``q`` ``(K,)``, estimated before training; None: without the first
            term, to compare models whose confidence on the target has not been trained.

    >>> source = Outputs(np.zeros((4, 1)), np.array([[4.0, 0.0]] * 4), np.array([0, 0, 0, 1]))
    >>> target = np.array([[9.0, 0.0], [9.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    >>> fits, other = (prior_im(source, target, np.array(q)) for q in ([0.75, 0.25], [0.5, 0.5]))
    >>> fits > other
    True
    """
    return _prior_im(_calibrated(source, target_logits), mix)


def _prior_im(calibrated: Array, mix: Array | None) -> float:
    p = _probabilities(calibrated)
    other = 0.0 if mix is None else scipy.special.rel_entr(p.mean(axis=0), mix).sum()
    return -float(other + scipy.special.entr(p).sum(axis=1).mean())


def mix_of(source: Outputs, target_logits: Array) -> Array:
    """Return the most likely class frequencies ``(K,)`` of the target, by calibrated predictions.

    See :func:`.likely_frequencies`; those of classes without source samples are tiny instead of 0.
    """
    assert source.labels is not None
    p = _probabilities(_calibrated(source, target_logits))
    found = likely_frequencies(np.bincount(source.labels, minlength=p.shape[1]), p)
    return np.maximum(found, np.finfo(float).tiny)


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
    evenness = float(scipy.special.entr(mean).sum() / np.log(classes)) if classes > 1 else 1.0
    return evenness, len(np.unique(np.argmax(logits, axis=1))) / min(rows, classes)


@dataclass(frozen=True)
class Score(Generic[Found]):
    """A score that a selection rule is made of.

    Attributes:
        criterion: What the model with the highest score has, for the report.
        function: Computes it from the outputs of the model for both domains.
    """

    criterion: str
    function: Callable[[Found], float]


#: The scores by name; each is logged after every validation and is a ``selection`` rule.
SCORES: dict[str, Score[Pair]] = {
    "entropy": Score("lowest prediction entropy", lambda pair: entropy(pair.target.logits)),
    "im": Score("highest information maximisation", lambda pair: im(pair.target.logits)),
    "bnm": Score("highest nuclear norm of the predictions", lambda pair: bnm(pair.target.logits)),
    "cbnm": Score(
        "highest nuclear norm of the predictions, calibrated on the source",
        lambda pair: bnm(pair.calibrated),
    ),
    "prior_im": Score(
        "highest information maximisation for the class frequencies estimated before training",
        lambda pair: _prior_im(pair.calibrated, pair.mix),
    ),
    "snd": Score("highest soft neighbourhood density", lambda pair: snd(pair.target.logits)),
    "dev": Score("lowest deep embedded validation risk", lambda pair: dev_risk(*pair.weighted)),
    "iwcv": Score(
        "lowest importance-weighted source risk", lambda pair: weighted_risk(*pair.weighted)
    ),
}


def raw_scores(
    source: Outputs, target: Outputs | None, mix: Array | None = None
) -> dict[str, float]:
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
    pair = Pair(source, target, mix)
    scores |= {name: score.function(pair) for name, score in SCORES.items()}
    scores["balance"], scores["predicted"] = balance(target.logits)
    return scores


def _calibrated(source: Outputs, target_logits: Array) -> Array:
    """Return the logits of the target divided by the temperature of the source's predictions."""
    assert source.labels is not None
    return np.asarray(target_logits) / temperature(source.logits, source.labels)


def _probabilities(logits: Array) -> Array:
    p: Array = scipy.special.softmax(np.asarray(logits, dtype=np.float64), axis=1)
    return p


def _weighted(source: Outputs, target_features: Array) -> tuple[Array, Array]:
    """Return the importance weight and the cross-entropy of every source row."""
    assert source.labels is not None
    logp = scipy.special.log_softmax(np.asarray(source.logits, dtype=np.float64), axis=1)
    losses = -logp[np.arange(len(logp)), source.labels]
    return ratios(source.features, target_features), losses
