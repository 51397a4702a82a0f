"""CORAL between source domains against numpy."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from methods import PENALTY, arrays, built, context, views
from tl_lightning.methods.domain_coral import DomainCORAL


def test_value() -> None:
    found = views(9, 4)
    domain = found["source"].domain = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2])
    features = arrays(found)["fs"]
    parts = [features[domain.numpy() == d] for d in range(3)]
    moments = [(part.mean(0), np.cov(part, rowvar=False)) for part in parts]
    gaps = [
        ((a[0] - b[0]) ** 2).mean() + ((a[1] - b[1]) ** 2).mean()
        for a, b in combinations(moments, 2)
    ]
    value = built(DomainCORAL, **PENALTY)(found, context())["domaincoral"]
    assert value.item() == pytest.approx(np.mean(gaps), rel=1e-4)


def test_domains_with_a_single_sample_are_left_out() -> None:
    found = views(4, 4)
    found["source"].domain = torch.tensor([0, 0, 0, 1])
    assert built(DomainCORAL, **PENALTY)(found, context())["domaincoral"].item() == 0.0
