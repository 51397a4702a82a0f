"""Contract tests for every regularizer in conf/regularizer, and their formulas."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from conftest import REPO
from helpers import config, same, weights
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import ConfigError
from tl_lightning.losses import regularizers
from tl_lightning.losses.regularizers import spectral_tail
from tl_lightning.training import build as building
from tl_lightning.training import fit as training
from tl_lightning.types import View

NAMES = sorted(path.stem for path in (REPO / "conf" / "regularizer").glob("*.yaml"))
OFF = {
    "l1": ["regularizer.l1.weight=0"],
    "l2": ["regularizer.l2.weight=0"],
    "l2_sp": ["regularizer.l2_sp.alpha=0", "regularizer.l2_sp.beta=0"],
    "bss": ["regularizer.bss.eta=0"],
}
MODELS = ["fine_tuning", "feature_extraction", "dann"]


def net(*overrides: str) -> Any:
    checked = validation.check(config(*overrides))
    return building.build_module(checked, tuple("0123456789"))


def batch(n: int = 12) -> dict[str, Any]:
    g = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (n, 3, 16, 16), generator=g, dtype=torch.uint8) for _ in "st"]
    labels = torch.randint(0, 10, (n,), generator=g)
    return {
        "source": {"inputs": images[0], "labels": labels, "index": torch.arange(n)},
        "target": {"inputs": images[1], "index": torch.arange(n)},
    }


def perturbed(model: Any) -> Any:
    """Change all weights, as training does."""
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn(p.shape, generator=g)
    return model


def test_every_regularizer_has_a_class_and_a_config() -> None:
    targets = {
        re.search(r"_target_: (\S+)", path.read_text())[1]
        for path in (REPO / "conf" / "regularizer").glob("*.yaml")
    }
    classes = {k for k in regularizers.__all__ if k[0].isupper() and k != "Regularizer"}
    assert targets == {f"tl_lightning.losses.regularizers.{name}" for name in classes}
    assert set(NAMES) == set(OFF)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_weight_zero_equals_training_without_it_bit_for_bit(name, tmp_path) -> None:
    last = "checkpoints/last.ckpt"
    training.fit(config("baselines=[]"), tmp_path / "without")
    training.fit(config("baselines=[]", f"regularizer=[{name}]", *OFF[name]), tmp_path / "zero")
    training.fit(config("baselines=[]", f"regularizer=[{name}]"), tmp_path / "with")
    without, zero, changed = (weights(tmp_path / run / last) for run in ("without", "zero", "with"))
    assert same(without, zero)
    assert without.keys() == changed.keys()
    assert not same(without, changed)
    header = (tmp_path / "with" / "metrics.csv").read_text().splitlines()[0]
    assert f"train/{name}" in header


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", MODELS)
def test_frozen_parameters_have_no_gradient(name, kind) -> None:
    model = perturbed(net(f"model={kind}", f"regularizer=[{name}]", "head.bottleneck=8")).train()
    frozen = [p for p in model.backbone.parameters() if not p.requires_grad]
    if kind != "feature_extraction":
        first = next(model.backbone.parameters())
        first.requires_grad_(False)
        frozen = [first]
    terms = model.regularizers[name](model.views(batch()))
    assert terms
    torch.stack(list(terms.values())).sum().backward()
    assert frozen
    assert all(p.grad is None for p in frozen)
    assert any(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_no_terms_if_everything_is_frozen(name) -> None:
    model = perturbed(net("model=fine_tuning", f"regularizer=[{name}]")).requires_grad_(False)
    assert model.regularizers[name](model.views(batch())) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_regularizers_add_no_parameters_or_state(name) -> None:
    plain, model = net("model=dann"), net("model=dann", f"regularizer=[{name}]")
    assert plain.state_dict().keys() == model.state_dict().keys()
    names = [n for n, _ in model.named_parameters()]
    assert names == [n for n, _ in plain.named_parameters()]
    assert list(model.task_terms(model.views(batch()))) == ["task", *model.regularizers[name](
        model.views(batch())
    )]  # fmt: skip


def gradients(model: Any, name: str) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    terms = model.regularizers[name](model.views(batch()))
    torch.stack(list(terms.values())).sum().backward()
    result = {n: np.zeros(p.shape) if p.grad is None else p.grad.numpy()
             for n, p in model.named_parameters()}  # fmt: skip
    return {n: term.item() for n, term in terms.items()}, result


@pytest.mark.parametrize(("name", "power"), [("l1", 1), ("l2", 2)])
def test_l1_and_l2_formulas(name, power) -> None:
    model = perturbed(
        net("model=fine_tuning", f"regularizer=[{name}]", f"regularizer.{name}.weight=3")
    )
    terms, result = gradients(model, name)
    total = 0.0
    for key, p in model.named_parameters():
        w = p.detach().double().numpy() * (p.ndim > 1)
        total += 3 * np.abs(w).sum() if power == 1 else 1.5 * (w**2).sum()
        expected = 3 * np.sign(w) if power == 1 else 3 * w
        assert np.allclose(result[key], expected, rtol=1e-5), key
    assert terms[name] == pytest.approx(total, rel=1e-5)
    assert any(p.ndim == 1 for p in model.parameters())


def test_l2_sp_formula_and_initial_value() -> None:
    model = net("regularizer=[l2_sp]", "regularizer.l2_sp.alpha=2", "regularizer.l2_sp.beta=4")
    start = {n: p.detach().double().numpy().copy() for n, p in model.named_parameters()}
    assert model.regularizers["l2_sp"](model.views(batch()))["l2_sp"].item() == 0
    terms, result = gradients(perturbed(model), "l2_sp")
    total = {"backbone": 0.0, "task": 0.0, "methods": 0.0}
    for key, p in model.named_parameters():
        now, part = p.detach().double().numpy(), key.split(".")[0]
        expected = {"backbone": 2 * (now - start[key]), "task": 4 * now, "methods": 0 * now}[part]
        factor = {"backbone": 2, "task": 4, "methods": 1}[part]
        assert np.allclose(result[key], expected, rtol=1e-4, atol=1e-6), key
        total[part] += 0.5 / factor * (expected**2).sum()
    assert terms["l2_sp"] == pytest.approx(total["backbone"], rel=1e-5)
    assert terms["l2_sp_head"] == pytest.approx(total["task"], rel=1e-5)


def test_bss_formula() -> None:
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    spectral_tail(x, 2).backward()
    u, s, v = np.linalg.svd(x.detach().double().numpy(), full_matrices=False)
    assert spectral_tail(x, 2).item() == pytest.approx((s[-2:] ** 2).sum(), rel=1e-5)
    assert np.allclose(x.grad, 2 * (u[:, -2:] * s[-2:]) @ v[-2:], atol=1e-5)
    assert spectral_tail(x, 99).item() == pytest.approx((s**2).sum(), rel=1e-5)


def test_bss_is_the_mean_over_domains_in_float32() -> None:
    model = net("regularizer=[bss]", "regularizer.bss.eta=0.5", "regularizer.bss.k=3")
    g = torch.Generator().manual_seed(1)
    a, b = (torch.randn(8, 5, generator=g).bfloat16().requires_grad_() for _ in "ab")
    views = {"source": View(a, a), "target": View(b, b)}
    with torch.autocast("cpu", torch.bfloat16):
        term = model.regularizers["bss"](views)["bss"]
    assert term.dtype == torch.float32
    expected = [np.linalg.svd(x.detach().double().numpy())[1][-3:] ** 2 for x in (a, b)]
    assert term.item() == pytest.approx(0.5 * np.mean([w.sum() for w in expected]), rel=1e-5)


def test_bss_gradient_is_finite_for_identical_samples() -> None:
    x = torch.ones(5, 4, requires_grad=True)
    spectral_tail(x, 2).backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.slow
def test_resume_equals_uninterrupted_run_bit_for_bit(tmp_path) -> None:
    """L2-SP uses the same initial weights after a resume."""
    settings = ("baselines=[]", "regularizer=[l1,l2,l2_sp,bss]", "regularizer.l2_sp.alpha=5")
    last = "checkpoints/last.ckpt"
    for run, epochs in (("whole", [2]), ("resumed", [1, 2])):
        for max_epochs in epochs:
            # With this schedule and model, training does not depend on max_epochs.
            more = ("scheduler=constant", "model=source_only", f"trainer.max_epochs={max_epochs}")
            training.fit(config(*settings, *more, "resume=auto"), tmp_path / run)
    assert same(weights(tmp_path / "whole" / last), weights(tmp_path / "resumed" / last))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("regularizer.l1.weight=-1", "regularizer.l1.weight=-1 must be at least 0; set"),
        ("regularizer.l2.weight=-1", "regularizer.l2.weight=-1 must be at least 0; set"),
        ("regularizer.l2_sp.beta=-2", "regularizer.l2_sp.beta=-2 must be at least 0; set"),
        ("regularizer.bss.eta=-2", "regularizer.bss.eta=-2 must be at least 0; set"),
        ("regularizer.bss.k=0", "regularizer.bss.k=0 must be at least 1; set"),
        ("regularizer.bss.k=1.5", "regularizer.bss.k=1.5 is not an integer"),
    ],
)
def test_error_messages(override, message) -> None:
    with pytest.raises(ConfigError) as caught:
        validation.check(config("regularizer=[l1,l2,l2_sp,bss]", override))
    assert message in str(caught.value)


def test_the_class_checks_its_parameters() -> None:
    bss = net("regularizer=[bss]").regularizers["bss"]
    with pytest.raises(ConfigError, match=r"regularizer.eta=-1 must be at least 0"):
        type(bss)(backbone=torch.nn.Identity(), task=torch.nn.Identity(), eta=-1, k=1)
