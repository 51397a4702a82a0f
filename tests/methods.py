"""Helpers for the reference tests of the adaptation methods."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from tl_lightning.methods.base import Method
from tl_lightning.methods.components.domain_norm import PerDomain
from tl_lightning.types import Context, Terms, View

D, K, N, M = 6, 3, 5, 7
PENALTY = {"weight": 1.0, "ramp": "none", "gather": False}


def views(n: int = N, m: int = M, scale: float = 1.0, seed: int = 1) -> dict[str, View]:
    """Return random views of ``n`` labelled source and ``m`` unlabelled target samples."""
    g = torch.Generator().manual_seed(seed)

    def part(rows: int, width: int, shift: float = 0.0) -> torch.Tensor:
        values = scale * torch.randn(rows, width, generator=g) + shift
        return values.requires_grad_()

    labels = torch.randint(0, K, (n,), generator=g)
    labels[:K] = torch.arange(K)
    return {
        "source": View(part(n, D), part(n, K), labels=labels, index=torch.arange(n)),
        "target": View(part(m, D, 0.5), part(m, K), index=torch.arange(m)),
    }


def of_features(*features: torch.Tensor) -> dict[str, View]:
    """Return views of a source and a target with these features, and logits of zeros."""
    return {
        domain: View(part, torch.zeros(len(part), K))
        for domain, part in zip(("source", "target"), features, strict=True)
    }


def weak_and_strong(weak: torch.Tensor) -> tuple[dict[str, View], torch.Tensor, torch.Tensor]:
    """Return views with given logits of the target, random ones of its strong view, and both."""
    count = len(weak)
    given = views(count, count)
    given["target"].logits = weak = weak.clone().requires_grad_()
    strong = torch.randn(count, K, generator=torch.Generator().manual_seed(0)).requires_grad_()
    given["target_strong"] = View(torch.randn(count, D), strong)
    return given, weak, strong


def context(progress: float = 1.0, stage: str = "", classify: Any = None) -> Context:
    """Return a context that discards diagnostics."""
    return Context(progress, 0, lambda *_: None, classify or nn.Identity(), stage)


def arrays(given: dict[str, View]) -> dict[str, Any]:
    """Return features ``fs, ft``, logits ``zs, zt``, probabilities ``ps, pt`` and labels ``y``."""
    source, target = given["source"], given["target"]
    result = {
        "fs": source.features, "ft": target.features, "zs": source.logits, "zt": target.logits,
        "ps": source.logits.softmax(1), "pt": target.logits.softmax(1), "y": source.labels,
    }  # fmt: skip
    return {k: v.detach().double().numpy() if v.is_floating_point() else v.numpy()
            for k, v in result.items()}  # fmt: skip


def built(cls: type[Method], **params: Any) -> Any:
    """Return a method whose weights are initialised from a fixed seed."""
    torch.manual_seed(0)
    return cls(in_features=D, num_classes=K, **params)


def gradients(terms: Terms, *of: torch.Tensor) -> list[torch.Tensor | None]:
    """Return the gradients of the sum of the terms with respect to the given tensors."""
    total = torch.stack([term.float() for term in terms.values()]).sum()
    return list(torch.autograd.grad(total, of, allow_unused=True, retain_graph=True))


def entropy(p: np.ndarray) -> np.ndarray:
    """Return the entropy of each row."""
    return -(p * np.log(p)).sum(1)


def softmax(z: np.ndarray) -> np.ndarray:
    """Return the softmax of each row."""
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def gaussian(x: np.ndarray, multipliers: Any, width: float | None = None) -> np.ndarray:
    """Return the mean Gaussian kernel; its width defaults to the mean squared distance."""
    from scipy.spatial.distance import cdist

    d = cdist(x, x, "sqeuclidean")
    n = len(x)
    s = d.sum() / (n * n - n) if width is None else width
    return np.mean([np.exp(-d / (m * s)) for m in multipliers], axis=0)


def norms_of(module: nn.Module) -> list[PerDomain]:
    """Return the layers with one part per domain."""
    return [part for part in module.modules() if isinstance(part, PerDomain)]
