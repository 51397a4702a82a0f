"""What every regulariser in conf/regularizer must keep, and each one's formula."""

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
    pictures = [torch.randint(0, 256, (n, 3, 16, 16), generator=g, dtype=torch.uint8) for _ in "st"]
    labels = torch.randint(0, 10, (n,), generator=g)
    return {
        "source": {"inputs": pictures[0], "labels": labels, "index": torch.arange(n)},
        "target": {"inputs": pictures[1], "index": torch.arange(n)},
    }


def moved(model: Any) -> Any:
    """Change every weight, as training does."""
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn(p.shape, generator=g)
    return model


def test_every_regulariser_is_a_class_and_a_yaml() -> None:
    targets = {
        re.search(r"_target_: (\S+)", path.read_text())[1]
        for path in (REPO / "conf" / "regularizer").glob("*.yaml")
    }
    classes = {k for k in regularizers.__all__ if k[0].isupper() and k != "Regularizer"}
    assert targets == {f"tl_lightning.losses.regularizers.{name}" for name in classes}
    assert set(NAMES) == set(OFF)


@pytest.mark.parametrize("name", NAMES)
def test_weight_0_is_the_run_without_it_bit_for_bit(name, tmp_path) -> None:
    last = "checkpoints/last.ckpt"
    training.fit(config("bracket=[]"), tmp_path / "without")
    training.fit(config("bracket=[]", f"regularizer=[{name}]", *OFF[name]), tmp_path / "zero")
    training.fit(config("bracket=[]", f"regularizer=[{name}]"), tmp_path / "with")
    without, zero, changed = (weights(tmp_path / run / last) for run in ("without", "zero", "with"))
    assert same(without, zero)
    assert without.keys() == changed.keys()
    assert not same(without, changed)
    header = (tmp_path / "with" / "metrics.csv").read_text().splitlines()[0]
    assert f"train/{name}" in header


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model", MODELS)
def test_terms_touch_only_what_learns(name, model) -> None:
    made = moved(net(f"model={model}", f"regularizer=[{name}]", "head.bottleneck=8")).train()
    frozen = [p for p in made.backbone.parameters() if not p.requires_grad]
    if model != "feature_extraction":
        first = next(made.backbone.parameters())
        first.requires_grad_(False)
        frozen = [first]
    terms = made.regularizers[name](made.views(batch()))
    assert terms
    torch.stack(list(terms.values())).sum().backward()
    assert frozen
    assert all(p.grad is None for p in frozen)
    assert any(p.grad is not None for p in made.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_all_frozen_gives_no_term(name) -> None:
    made = moved(net("model=fine_tuning", f"regularizer=[{name}]")).requires_grad_(False)
    assert made.regularizers[name](made.views(batch())) == {}


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_it_is_in_the_state_dict_or_the_parameters(name) -> None:
    plain, made = net("model=dann"), net("model=dann", f"regularizer=[{name}]")
    assert plain.state_dict().keys() == made.state_dict().keys()
    names = [n for n, _ in made.named_parameters()]
    assert names == [n for n, _ in plain.named_parameters()]
    assert list(made.task_terms(made.views(batch()))) == ["task", *made.regularizers[name](
        made.views(batch())
    )]  # fmt: skip


def gradients(made: Any, name: str) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    terms = made.regularizers[name](made.views(batch()))
    torch.stack(list(terms.values())).sum().backward()
    found = {n: np.zeros(p.shape) if p.grad is None else p.grad.numpy()
             for n, p in made.named_parameters()}  # fmt: skip
    return {n: term.item() for n, term in terms.items()}, found


@pytest.mark.parametrize(("name", "power"), [("l1", 1), ("l2", 2)])
def test_l1_and_l2_are_their_formulas(name, power) -> None:
    made = moved(net("model=fine_tuning", f"regularizer=[{name}]", f"regularizer.{name}.weight=3"))
    terms, found = gradients(made, name)
    total = 0.0
    for key, p in made.named_parameters():
        w = p.detach().double().numpy() * (p.ndim > 1)
        total += 3 * np.abs(w).sum() if power == 1 else 1.5 * (w**2).sum()
        want = 3 * np.sign(w) if power == 1 else 3 * w
        assert np.allclose(found[key], want, rtol=1e-5), key
    assert terms[name] == pytest.approx(total, rel=1e-5)
    assert any(p.ndim == 1 for p in made.parameters())


def test_l2_sp_is_its_formula_and_starts_at_0() -> None:
    made = net("regularizer=[l2_sp]", "regularizer.l2_sp.alpha=2", "regularizer.l2_sp.beta=4")
    start = {n: p.detach().double().numpy().copy() for n, p in made.named_parameters()}
    assert made.regularizers["l2_sp"](made.views(batch()))["l2_sp"].item() == 0
    terms, found = gradients(moved(made), "l2_sp")
    total = {"backbone": 0.0, "task": 0.0, "adapters": 0.0}
    for key, p in made.named_parameters():
        now, part = p.detach().double().numpy(), key.split(".")[0]
        want = {"backbone": 2 * (now - start[key]), "task": 4 * now, "adapters": 0 * now}[part]
        factor = {"backbone": 2, "task": 4, "adapters": 1}[part]
        assert np.allclose(found[key], want, rtol=1e-4, atol=1e-6), key
        total[part] += 0.5 / factor * (want**2).sum()
    assert terms["l2_sp"] == pytest.approx(total["backbone"], rel=1e-5)
    assert terms["l2_sp_head"] == pytest.approx(total["task"], rel=1e-5)


def test_bss_is_its_formula() -> None:
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    spectral_tail(x, 2).backward()
    u, s, v = np.linalg.svd(x.detach().double().numpy(), full_matrices=False)
    assert spectral_tail(x, 2).item() == pytest.approx((s[-2:] ** 2).sum(), rel=1e-5)
    assert np.allclose(x.grad, 2 * (u[:, -2:] * s[-2:]) @ v[-2:], atol=1e-5)
    assert spectral_tail(x, 99).item() == pytest.approx((s**2).sum(), rel=1e-5)


def test_bss_of_two_domains_is_the_mean_of_both_in_float32() -> None:
    made = net("regularizer=[bss]", "regularizer.bss.eta=0.5", "regularizer.bss.k=3")
    g = torch.Generator().manual_seed(1)
    a, b = (torch.randn(8, 5, generator=g).bfloat16().requires_grad_() for _ in "ab")
    views = {"source": View(a, a), "target": View(b, b)}
    with torch.autocast("cpu", torch.bfloat16):
        term = made.regularizers["bss"](views)["bss"]
    assert term.dtype == torch.float32
    want = [np.linalg.svd(x.detach().double().numpy())[1][-3:] ** 2 for x in (a, b)]
    assert term.item() == pytest.approx(0.5 * np.mean([w.sum() for w in want]), rel=1e-5)


def test_a_batch_of_equal_pictures_has_finite_gradients() -> None:
    x = torch.ones(5, 4, requires_grad=True)
    spectral_tail(x, 2).backward()
    assert torch.isfinite(x.grad).all()


def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path) -> None:
    """The weights that the run began with are the same after a resume."""
    settings = ("bracket=[]", "regularizer=[l1,l2,l2_sp,bss]", "regularizer.l2_sp.alpha=5")
    last = "checkpoints/last.ckpt"
    for run, ends in (("whole", [2]), ("cut", [1, 2])):
        for count in ends:
            # A schedule and a progress that do not depend on where the run is to end.
            more = ("scheduler=constant", "model=source_only", f"trainer.max_epochs={count}")
            training.fit(config(*settings, *more, "resume=auto"), tmp_path / run)
    assert same(weights(tmp_path / "whole" / last), weights(tmp_path / "cut" / last))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("regularizer.l1.weight=-1", "regularizer.l1.weight=-1 is below 0; type"),
        ("regularizer.l2.weight=-1", "regularizer.l2.weight=-1 is below 0; type"),
        ("regularizer.l2_sp.beta=-2", "regularizer.l2_sp.beta=-2 is below 0; type"),
        ("regularizer.bss.eta=-2", "regularizer.bss.eta=-2 is below 0; type"),
        ("regularizer.bss.k=0", "regularizer.bss.k=0 singular values are none; type"),
        ("regularizer.bss.k=1.5", "regularizer.bss.k=1.5 is not a whole number"),
    ],
)
def test_words_of_faults(override, words) -> None:
    with pytest.raises(ConfigError) as caught:
        validation.check(config("regularizer=[l1,l2,l2_sp,bss]", override))
    assert words in str(caught.value)


def test_the_class_refuses_them_too() -> None:
    made = net("regularizer=[bss]").regularizers["bss"]
    with pytest.raises(ConfigError, match=r"regularizer.eta=-1 is below 0"):
        type(made)(backbone=torch.nn.Identity(), task=torch.nn.Identity(), eta=-1, k=1)
