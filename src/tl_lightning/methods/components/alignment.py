"""Closed-form alignment: affine maps that make the features of two domains similar.

References:
    CORAL: Sun, Feng, Saenko (2016), AAAI. Return of frustratingly easy domain adaptation.
    Linear optimal transport: Flamary, Lounici, Ferrari (2019), arXiv 1905.10155.
    Subspace alignment: Fernando, Habrard, Sebban, Tuytelaars (2013), ICCV.
    Shrinkage of the covariances: Ledoit, Wolf (2004), Journal of Multivariate Analysis 88.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tl_lightning.errors import DataError
from tl_lightning.methods.components.domain_norm import PerDomain

__all__ = ["DIAGONAL", "KINDS", "Affine", "FeatureAlignment", "Kind", "fit_map"]

Array = NDArray[Any]
Kind = Literal["centre", "moments", "coral", "linear_ot", "subspace"]
KINDS: tuple[str, ...] = get_args(Kind)
#: Kinds that need the covariance of all features.
COVARIANCES = ("coral", "linear_ot")
#: Kinds that map every feature on its own.
DIAGONAL = ("centre", "moments")
#: Smallest eigenvalue of a covariance, as a fraction of the largest.
SMALLEST = 1e-6
#: Variance that is added to that of each feature, as a fraction of the mean variance.
CONSTANT = 1e-2
#: Largest number of directions that ``subspace`` keeps.
DIRECTIONS = 100


class Affine(nn.Module):
    """Maps ``(B, D)`` to ``x W + b`` in float32.

    Args:
        width: ``D``.
        diagonal: Whether ``W`` is diagonal; only its diagonal is stored then.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, width: int, diagonal: bool) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(width) if diagonal else torch.eye(width))
        self.register_buffer("bias", torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the mapped features ``(B, D)`` in float32."""
        with torch.autocast(x.device.type, enabled=False):
            x, weight = x.float(), self.weight.float()
            moved = x * weight if weight.ndim == 1 else x @ weight
            return moved + self.bias.float()


class FeatureAlignment(PerDomain):
    """Maps the features of the target so that their distribution becomes similar to the source's.

    Args:
        width: Number of features ``D``.
        kind: See :func:`fit_map`.
        strength: How far to move the features: 0 not at all, 1 all the way.
        samples: Number of samples per domain to fit the map to.
    """

    measured: Tensor

    def __init__(self, width: int, kind: str, strength: float, samples: int) -> None:
        super().__init__()
        self.samples = samples
        self.kind = kind
        self.strength = strength
        self.source = nn.Identity()
        self.target: Affine = Affine(width, kind in DIAGONAL)
        self.register_buffer("measured", torch.tensor(False))

    def fit(self, source: Array, target: Array) -> None:
        """Fit the map to features ``(N, D)`` and ``(M, D)`` of the two domains.

        Raises:
            DataError: If a domain has a single sample, or features that are not finite.
        """
        for domain, features in (("source", source), ("target", target)):
            if len(features) < 2:
                raise DataError(
                    f"method=[align] needs at least 2 training images of the {domain}, got "
                    f"{len(features)}; use more images, or a method without alignment"
                )
            if not np.isfinite(features).all():
                raise DataError(
                    f"method=[align]: the network gives features of the {domain} that are not "
                    "finite; set trainer.precision=32-true, or check the images and the weights"
                )
        few = min(len(source), len(target))
        if self.kind in COVARIANCES and few < 2 * source.shape[1]:
            warnings.warn(
                f"method.align.kind={self.kind} estimates covariances of {source.shape[1]} "
                f"features from {few} images, which can lower the accuracy; set "
                "method.align.kind=subspace, or use more images",
                stacklevel=2,
            )
        weight, bias = fit_map(self.kind, source, target, self.strength)
        self.target.weight.copy_(torch.from_numpy(weight))
        self.target.bias.copy_(torch.from_numpy(bias))
        self.measured.fill_(True)

    def reset(self) -> None:
        """Leave the features of the target unchanged again."""
        unchanged = Affine(len(self.target.bias), self.kind in DIAGONAL)
        self.target.load_state_dict(unchanged.state_dict())


def fit_map(kind: str, source: Array, target: Array, strength: float) -> tuple[Array, Array]:
    r"""Return the map ``x W + b`` of the target's features as ``(W, b)``.

    With means :math:`m_s, m_t` and covariances :math:`C_s, C_t` (Ledoit-Wolf), the target is mapped
    to :math:`(x - m_t) A + m_s`, where

    - ``centre``: :math:`A = I`;
    - ``moments``: a diagonal :math:`A` that gives every feature the source's variance;
    - ``coral``: :math:`A = C_t^{-1/2} C_s^{1/2}`, which whitens the target and gives it the
      covariance of the source;
    - ``linear_ot``: :math:`A = C_t^{-1/2} (C_t^{1/2} C_s C_t^{1/2})^{1/2} C_t^{-1/2}`, of all maps
      with the same effect on normal distributions the one that moves the features least;
    - ``subspace``: :math:`A = P_t P_t^T P_s P_s^T` with the first principal directions
      :math:`P_s, P_t` of each domain: the target's are rotated towards the source's, and
      everything outside of them is removed.

    Args:
        kind: One of :data:`KINDS`.
        source: Features ``(N, D)``.
        target: Features ``(M, D)``.
        strength: :math:`a`; the result is :math:`(1 - a) x + a f(x)`.

    Returns:
        ``W``, which is ``(D, D)``, or its diagonal ``(D,)`` for the kinds in :data:`DIAGONAL`; and
        ``b``, which is ``(D,)``.

    >>> source, target = np.array([[0.0], [2.0]]), np.array([[10.0], [14.0]])
    >>> weight, bias = fit_map("centre", source, target, 1.0)
    >>> (target * weight + bias).ravel().tolist()
    [-1.0, 3.0]
    """
    s, t = (np.asarray(x, np.float64) for x in (source, target))
    m_s, m_t = s.mean(0), t.mean(0)
    matrix = _MAPS[kind](s - m_s, t - m_t)
    same = np.ones_like(m_t) if matrix.ndim == 1 else np.eye(len(m_t))
    weight = (1 - strength) * same + strength * matrix
    moved = m_t * weight if matrix.ndim == 1 else m_t @ weight
    return weight, (1 - strength) * m_t + strength * m_s - moved


def _centre(source: Array, target: Array) -> Array:
    return np.ones(source.shape[1])


def _moments(source: Array, target: Array) -> Array:
    v_s, v_t = source.var(0), target.var(0)
    # A feature that is constant in one domain must not be multiplied by a huge factor.
    least = CONSTANT * (v_s.mean() + v_t.mean()) or 1.0
    found: Array = np.sqrt((v_s + least) / (v_t + least))
    return found


def _coral(source: Array, target: Array) -> Array:
    found: Array = _power(_covariance(target), -0.5) @ _power(_covariance(source), 0.5)
    return found


def _linear_ot(source: Array, target: Array) -> Array:
    c_s, c_t = _covariance(source), _covariance(target)
    root, inverse = _power(c_t, 0.5), _power(c_t, -0.5)
    found: Array = inverse @ _power(root @ c_s @ root, 0.5) @ inverse
    return found


def _subspace(source: Array, target: Array) -> Array:
    count = min(DIRECTIONS, source.shape[1], len(source) - 1, len(target) - 1)
    p_s, p_t = (_directions(x, count) for x in (source, target))
    found: Array = p_t @ (p_t.T @ p_s) @ p_s.T
    return found


_MAPS: Mapping[str, Callable[[Array, Array], Array]] = {
    "centre": _centre, "moments": _moments, "coral": _coral, "linear_ot": _linear_ot,
    "subspace": _subspace,
}  # fmt: skip


def _covariance(features: Array) -> Array:
    """Return the covariance ``(D, D)``, shrunk so that it can be inverted with few samples."""
    from sklearn.covariance import ledoit_wolf

    found: Array = ledoit_wolf(features)[0]
    return found


def _power(matrix: Array, exponent: float) -> Array:
    """Return a power of a symmetric matrix without negative eigenvalues."""
    values, vectors = np.linalg.eigh(matrix)
    values = np.maximum(values, SMALLEST * values[-1] or 1.0)
    out: Array = (vectors * values**exponent) @ vectors.T
    return out


def _directions(features: Array, count: int) -> Array:
    """Return the first principal directions ``(D, count)`` of centred features."""
    found: Array = np.linalg.svd(features, full_matrices=False)[2][:count].T
    return found
