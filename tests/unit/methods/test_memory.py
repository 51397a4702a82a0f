"""Largest tensor of each method's step, as stated in docs/scaling.md."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from conftest import REPO
from tl_lightning.config.instantiate import find_class
from tl_lightning.methods.base import Method, TargetBank
from tl_lightning.types import Context, View

B, D, K = 32, 48, 40
SIZES = [(B, D, K), (2 * B, D, K), (B, 2 * D, K), (B, D, 3 * K)]
#: Values of the largest tensor, by batch size per domain, width of the features, and classes.
FORMULAS = {
    "kernels": lambda b, d, k: 5 * (2 * b) ** 2,
    "covariance": lambda b, d, k: d * d,
    "confusion": lambda b, d, k: k * k,
    "cost": lambda b, d, k: 2 * b * b,  # in float64
    "outputs": lambda b, d, k: 0,
}
OF_METHOD = {
    "mmd": "kernels", "jan": "kernels", "dsan": "kernels", "coral": "covariance",
    "mcc": "confusion", "deepjdot": "cost", "bnm": "outputs", "entropy": "outputs",
    "shot": "outputs", "tent": "outputs", "afn": "outputs", "bsp": "outputs",
}  # fmt: skip


class Largest(TorchDispatchMode):
    """Records the size of the largest tensor that an operation returns, in float32 values."""

    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_dispatch__(
        self, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = op(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.values = max(self.values, leaf.untyped_storage().nbytes() // 4)
        return out


def method(name: str, d: int, k: int, **changed: Any) -> Method:
    node = OmegaConf.to_container(OmegaConf.load(REPO / "conf" / "method" / f"{name}.yaml"))
    cls = find_class(node.pop("_target_"), name)[0]
    built: Method = cls(in_features=d, num_classes=k, **(node | changed))
    return built


def largest(net: Method, b: int, d: int, k: int) -> int:
    """Return the size of the largest tensor of the loss and its gradients."""
    views = {
        domain: View(
            torch.randn(b, d).requires_grad_(),
            torch.randn(b, k).requires_grad_(),
            labels=torch.randint(0, k, (b,)) if domain == "source" else None,
            index=torch.arange(b),
        )
        for domain in ("source", "target")
    }
    if net.uses_target_bank:
        net.begin_epoch(TargetBank(torch.randn(b, d), torch.randn(b, k)))
    context = Context(0.7, 5, lambda *_: None, nn.Linear(d, k), "")
    with Largest() as found:
        torch.stack(list(net(views, context).values())).sum().backward()
    return found.values


@pytest.mark.parametrize("name", OF_METHOD)
def test_the_largest_tensor_grows_as_stated(name):
    formula = FORMULAS[OF_METHOD[name]]
    for b, d, k in SIZES:
        found, stated = largest(method(name, d, k), b, d, k), formula(b, d, k)
        # Or as large as its inputs: the features, the logits, or both.
        assert found in {max(stated, size) for size in (b * d, b * k, b * max(d, k))}


def test_the_outer_product_of_cdan_is_bounded():
    small = method("cdan", 8, 4, width=4)
    assert not small.random
    assert largest(small, B, 8, 4) == 2 * B * 8 * 4
    bounded = method("cdan", 8, 4, width=4, largest=16)
    assert bounded.random
    assert largest(bounded, B, 8, 4) == 2 * B * 16


def test_the_page_has_the_formulas():
    page = (REPO / "docs" / "scaling.md").read_text(encoding="utf-8")
    for name in OF_METHOD:
        rows = [line for line in page.splitlines() if line.startswith("| `") and "B" in line]
        assert any(f"`{name}`" in row.split("|")[1] for row in rows), name
    # The figures of the page: kernels of a gathered batch, and the stored outputs of SHOT.
    assert f"{4 * FORMULAS['kernels'](256 * 64, 2048, 1000) / 1e9:.0f} GB" in page
    assert f"{4 * 1_281_167 * (2048 + 1000) / 1e9:.0f} GB" in page
    assert math.isclose(4 * FORMULAS["confusion"](256, 2048, 21_841) / 1e9, 1.9, abs_tol=0.02)
