"""Test-time adaptation: statistics, steps of each method, guard, modes and files."""

from __future__ import annotations

import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import tl_lightning as tl
import tl_lightning.inference.adaptation.stream as streams
from conftest import REPO
from helpers import config, killed_after
from tl_lightning.checkpoints.io import StoredModel
from tl_lightning.cli.predict import USAGE, _adapted, _predict
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.inference.adaptation.eata import EATA, fisher_information, highest_lr
from tl_lightning.inference.adaptation.guard import Guard
from tl_lightning.inference.adaptation.options import AdaptOptions
from tl_lightning.inference.adaptation.sar import SAR, adapted_by_sar
from tl_lightning.inference.adaptation.statistics import adapt_statistics
from tl_lightning.inference.adaptation.stream import StreamAdaptation
from tl_lightning.inference.adaptation.tent import Tent
from tl_lightning.inference.options import Options
from tl_lightning.inference.predictor import Outputs, Predictor
from tl_lightning.training import build as building

METHODS = ("bn", "tent", "eata", "sar")
#: A learning rate at which tent collapses at once.
HIGH = 3.0


def predictor_of(*overrides: str) -> Predictor:
    """Return an untrained model of 10 classes of images of 16 x 16 pixels."""
    module = building.build_module(
        validation.check(config("model=source_only", *overrides)), tuple("abcdefghij")
    )
    generator = torch.Generator().manual_seed(1)
    for one in module.modules():  # statistics as after training
        if isinstance(one, nn.BatchNorm2d):
            assert one.running_var is not None
            one.running_var.uniform_(0.5, 2.0, generator=generator)
    with torch.no_grad():  # certain predictions
        module.task.head.classifier[-1].weight.mul_(100.0)
    stored = StoredModel({}, tuple("abcdefghij"), {}, {}, {}, {})
    return Predictor(Path("a.ckpt"), stored, module.eval())


@pytest.fixture(scope="module")
def model() -> Predictor:
    return predictor_of()


@pytest.fixture(scope="module")
def fragile() -> Predictor:
    """Return a model whose outputs are not finite for images of one colour."""
    model = predictor_of()

    def spoil(_: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        plain = given[0][:, :1].flatten(1).var(1) == 0
        return (given[0].masked_fill(plain[:, None, None, None], math.nan),)

    model.module.backbone.register_forward_pre_hook(spoil)
    return model


def inputs(count: int = 8, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    colours = torch.randint(0, 256, (count, 3, 2, 2), generator=generator, dtype=torch.uint8)
    return colours.repeat_interleave(8, 2).repeat_interleave(8, 3)


def options(method: Any, **given: Any) -> AdaptOptions:
    fisher = {"fisher": "none"} if method == "eata" else {}
    return AdaptOptions(method, **{"guard": False, **fisher, **given})


def stream_of(model: Predictor, method: str, **given: Any) -> StreamAdaptation:
    return StreamAdaptation(model, options(method, **given), batch_size=64)


# -- options ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(("given", "message"), [
    ("tnt", "adapt=tnt is not valid; did you mean 'tent'?"),
    ({"lr": 1.0}, 'adapt has no method; pass adapt={"method": "tent", ...}'),
    ({"method": "tent", "rate": 1}, "adapt.rate is not an option; "),
    ({"method": "tent", "mode": "offline"}, "adapt.mode=offline is not valid; did you mean 'onl"),
    ({"method": "tent", "steps": 0}, "adapt.steps=0 must be at least 1; leave out adapt.steps"),
    ({"method": "bn", "reset_every": 0}, "adapt.reset_every=0 must be at least 1; leave out"),
    ({"method": "bn", "prior": -1.0}, "adapt.prior=-1 must be at least 0; set adapt.prior=16"),
    ({"method": "tent", "lr": 0.0}, "adapt.lr=0 must be positive; leave out adapt.lr"),
    ({"method": "bn", "lr": 0.1}, "adapt.lr has no effect with adapt=bn, which takes no steps"),
    ({"method": "bn", "steps": 2}, "adapt.steps has no effect with adapt=bn, which takes no"),
    ("eata", "adapt=eata keeps the model near the trained one by samples of the source; set"),
    ({"method": "sar", "fisher": "x"}, "adapt.fisher has no effect with adapt=sar; remove it"),
    ({"method": "bn", "mode": "episodic", "reset_every": 9}, "adapt.reset_every has no effect"),
    (True, 'adapt=True must be the name of a method, a mapping with it, or AdaptOptions; pass ada'),
    (5, "adapt=5 must be the name of a method"),
    ({"method": 5}, "adapt=5 must be the name of a method; set adapt=tent"),
    ({"method": "tent", 5: 1}, "adapt.5 is not an option; valid: "),
    ({"method": "tent", "mode": None}, "adapt.mode=None must be online or episodic; leave out"),
    ({"method": "tent", "lr": "0.1"}, "adapt.lr='0.1' must be a finite number; leave out adapt.lr"),
    ({"method": "tent", "lr": math.inf}, "adapt.lr=inf must be a finite number; leave out adapt.l"),
    ({"method": "tent", "prior": math.nan}, "adapt.prior=nan must be a finite number; set adapt.p"),
    ({"method": "tent", "guard": "false"}, "adapt.guard='false' must be true or false; set adapt."),
    ({"method": "tent", "steps": 1.5}, "adapt.steps=1.5 must be an integer; set adapt.steps=1"),
    ({"method": "tent", "steps": True}, "adapt.steps=True must be an integer; set adapt.steps=1"),
    ({"method": "tent", "reset_every": "9"}, "adapt.reset_every='9' must be an integer; set adapt"),
    ({"method": "eata", "fisher": "a.csv", "column": 3}, "adapt.column=3 must be the name of a co"),
    ({"method": "tent", "column": "a"}, "adapt.column has no effect without a table in adapt.fish"),
])  # fmt: skip
def test_options_that_are_not_valid(given, message) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        tl.predict("absent", [], adapt=given)


@pytest.mark.parametrize(("arguments", "message"), [
    (["adapt.mode=online"], "adapt.mode has no effect without adapt; set adapt=tent"),
    (["adapt=tent", "adapt.lr=fast"], "adapt.lr=fast is not a number; set adapt.lr=0.00025"),
    (["adapt=tent", "adapt.guard=1"], "adapt.guard=1 is not true or false; set adapt.guard=true"),
    (["adapt=tent", "tta=true"], "tta=true cannot be combined with adapt=tent: it holds for the"),
    (["adapt=bn", "precision=0.9"], "precision=0.9 cannot be combined with adapt=bn: it holds"),
    (["adapt=bn", "devices=[cpu,cpu]"], "samples in their order, got 2 devices; set devices=cpu"),
])  # fmt: skip
def test_options_of_the_command(arguments, message, tmp_path) -> None:
    (tmp_path / "a.ckpt").touch()  # it is not read
    with pytest.raises(ConfigError, match=re.escape(message)):
        _predict([f"checkpoint={tmp_path / 'a.ckpt'}", "input=b", *arguments])


def test_the_learning_rate_is_lower_for_small_batches() -> None:
    assert options("tent").learning_rate(200) == 2.5e-4
    assert options("tent").learning_rate(8) == 2.5e-4 / 4
    assert options("tent", lr=0.1).learning_rate(8) == 0.1


# -- networks --------------------------------------------------------------------------------------
def test_a_network_without_normalisation_is_an_error() -> None:
    bare = predictor_of("backbone.norm=false")
    message = r"adapt=tent trains the scales and shifts of normalisation layers, but ConvNet and"
    with pytest.raises(ConfigError, match=message):
        stream_of(bare, "tent")
    message = r"adapt=bn adapts the statistics of batch norm, but ConvNet and the head have no"
    with pytest.raises(ConfigError, match=message + " batch norm; remove adapt"):
        stream_of(bare, "bn")


def test_layer_norm_is_adapted_as_well() -> None:
    bare = predictor_of("backbone.norm=false")
    neck = bare.module.backbone.neck
    bare.module.backbone.neck = nn.Sequential(neck, nn.LayerNorm(neck[0].out_features))
    with pytest.raises(ConfigError, match="batch norm; set adapt=tent or adapt=sar, which adapt"):
        stream_of(bare, "bn")
    adapted = stream_of(bare, "tent", lr=1.0)
    first, second = adapted.outputs(inputs()), adapted.outputs(inputs())
    assert np.array_equal(first.logits, bare.outputs(inputs()).logits)
    assert not np.allclose(first.logits, second.logits)


def test_only_the_target_part_of_domain_specific_layers_is_adapted() -> None:
    domain = predictor_of()
    from tl_lightning.methods.components.domain_norm import DomainBatchNorm, replace_norms

    replace_norms(domain.module.backbone, lambda norm: DomainBatchNorm(norm, own_affine=True))
    adapted = stream_of(domain, "tent", lr=1.0)
    adapted.outputs(inputs())
    before, after = domain.module.state_dict(), adapted.module.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.endswith(("target.weight", "target.bias")) for name in changed)


# -- statistics ------------------------------------------------------------------------------------
@pytest.mark.parametrize("prior", [0.0, 24.0])
def test_batch_norm_normalises_by_the_mixture(prior: float) -> None:
    norm = nn.BatchNorm2d(3).eval()
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    norm.running_mean, norm.running_var = torch.tensor([1.0, 2, 3]), torch.tensor([0.1, 1.0, 9.0])
    x = torch.randn(8, 3, 4, 4)
    n, share = len(x), 1.0
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
    share = n / (n + prior)
    mean = share * mean + (1 - share) * norm.running_mean
    var = share * var + (1 - share) * norm.running_var
    expected = functional.batch_norm(x, mean, var, norm.weight, norm.bias, eps=norm.eps)
    adapt_statistics([norm, nn.LayerNorm(4)], prior)
    assert torch.allclose(norm(x), expected, atol=1e-5)
    if not prior:
        trained = nn.BatchNorm2d(3)
        trained.load_state_dict(norm.state_dict())
        assert torch.allclose(norm(x), trained(x), atol=1e-5)


@pytest.mark.parametrize("prior", [0.0, 16.0])
def test_a_single_value_per_channel_has_no_statistics(prior: float) -> None:
    norm = nn.BatchNorm1d(3).eval()
    x = torch.randn(1, 3)
    expected = norm(x)
    adapt_statistics([norm], prior)
    assert torch.equal(norm(x), expected)
    assert not torch.allclose(norm(torch.randn(2, 3)), norm(x))


def test_gradients_reach_the_statistics_of_the_batch() -> None:
    norms = [nn.BatchNorm1d(3), nn.BatchNorm1d(3).eval()]
    adapt_statistics(norms[1:], 0.0)
    x = torch.randn(8, 3)
    found = []
    for norm in norms:
        leaf = x.clone().requires_grad_()
        norm(leaf).pow(3).sum().backward()
        found.append(leaf.grad)
    assert torch.allclose(*cast(tuple[Tensor, Tensor], tuple(found)), atol=1e-4)


def test_with_a_large_prior_the_model_is_the_trained_one(model: Predictor) -> None:
    found = stream_of(model, "bn", prior=1e9).outputs(inputs())
    assert np.allclose(found.logits, model.outputs(inputs()).logits, atol=1e-4)
    assert not np.allclose(stream_of(model, "bn").outputs(inputs()).logits, found.logits, atol=1e-2)


# -- methods ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_predicted_before_the_step_on_it(method: str, model: Predictor) -> None:
    """And with the statistics of bn; nothing but scales and shifts changes."""
    adapted = stream_of(model, method, lr=None if method == "bn" else 0.5)
    first, second = adapted.outputs(inputs()), adapted.outputs(inputs())
    assert np.array_equal(first.logits, stream_of(model, "bn").outputs(inputs()).logits)
    assert np.array_equal(first.logits, second.logits) is (method == "bn")
    before, after = model.module.state_dict(), adapted.module.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    norms = {name.rpartition(".")[0] for name in before if name.endswith("running_mean")}
    assert {name.rpartition(".")[0] for name in changed} <= norms
    assert bool(changed) is (method != "bn")
    assert not any(name.endswith(("running_mean", "running_var")) for name in changed)


def leaf(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values))


BASE = torch.tensor([[8.0, 0, 0], [0.1, 0, 0], [0, 7.0, 0]])


def logits_of(parameter: Tensor) -> Tensor:
    return BASE * parameter


def entropy_of(logits: Tensor) -> Tensor:
    return torch.special.entr(logits.softmax(1)).sum(1)


def test_tent_takes_a_step_on_the_mean_entropy() -> None:
    parameter = leaf(1.0, 1.0, 1.0)
    (expected,) = torch.autograd.grad(entropy_of(logits_of(parameter)).mean(), parameter)
    Tent([parameter], lr=0.5).update(logits_of(parameter), lambda: logits_of(parameter))
    assert torch.allclose(parameter.detach(), 1 - 0.5 * expected, atol=1e-6)


def test_eata_selects_reliable_samples_and_weights_them() -> None:
    parameter = leaf(1.0, 1.0, 1.0)
    entropy = entropy_of(logits_of(parameter))
    margin = 0.4 * math.log(3)
    assert (entropy < margin).tolist() == [True, False, True]
    loss = ((margin - entropy.detach()).exp() * entropy)[[0, 2]].mean()
    (expected,) = torch.autograd.grad(loss, parameter)
    EATA([parameter], 0.5, None).update(logits_of(parameter), lambda: logits_of(parameter))
    assert torch.allclose(parameter.detach(), 1 - 0.5 * expected, atol=1e-6)


def test_eata_leaves_out_samples_like_earlier_ones() -> None:
    parameter = leaf(1.0, 1.0, 1.0)
    rule = EATA([parameter], 0.5, None)
    rule.mean = torch.tensor([1.0, 0.0, 0.0])  # as the first sample, whose cosine is 1
    entropy = entropy_of(logits_of(parameter))
    loss = ((0.4 * math.log(3) - entropy.detach()).exp() * entropy)[2]
    (expected,) = torch.autograd.grad(loss, parameter)
    rule.update(logits_of(parameter), lambda: logits_of(parameter))
    assert torch.allclose(parameter.detach(), 1 - 0.5 * expected, atol=1e-6)
    chosen = logits_of(torch.ones(3)).softmax(1)[2]
    assert rule.mean is not None
    assert torch.allclose(rule.mean, 0.9 * torch.tensor([1.0, 0, 0]) + 0.1 * chosen, atol=1e-5)


@pytest.mark.parametrize("rule", [EATA([leaf(1.0)], 0.5, None), SAR([leaf(1.0)], 0.5)])
def test_without_a_reliable_sample_there_is_no_step(rule: Tent) -> None:
    logits = torch.zeros(4, 3) * rule.parameters[0]
    assert rule.update(logits, lambda: logits) is False
    assert rule.parameters[0].item() == 1.0


def test_eata_stays_near_the_trained_parameters() -> None:
    free, kept = leaf(1.0, 1.0, 1.0), leaf(1.0, 1.0, 1.0)
    rules = EATA([free], 1e-2, None), EATA([kept], 1e-2, [torch.tensor([0.0, 1e-3, 0.0])])
    for _ in range(20):
        for rule, parameter in zip(rules, (free, kept), strict=True):
            rule.mean = None
            rule.update(logits_of(parameter), lambda: BASE)
    assert torch.equal(free[[0, 2]], kept[[0, 2]])
    assert (kept - 1)[1].abs() < 0.5 * (free - 1)[1].abs()


@pytest.mark.parametrize("lr", [0.4, 0.5])
def test_eata_refuses_a_learning_rate_at_which_its_regulariser_diverges(lr, model, monkeypatch):
    """As iterations on a single parameter show on both sides of the limit."""
    fisher = [torch.tensor([2e-3])]
    assert highest_lr(fisher) == pytest.approx(0.475)
    rule = EATA([leaf(2.0)], lr, fisher)
    rule.trained = [torch.tensor([1.0])]
    for _ in range(500):
        rule.step(cast(Tensor, rule._penalty()))
    away = float((rule.parameters[0].detach() - 1).abs())
    assert (away < 1e-3) is (lr < 0.475)
    monkeypatch.setattr(streams, "fisher_information", lambda *_: fisher)
    adapted = stream_of(model, "eata", lr=lr)
    if lr < 0.475:
        adapted.regularise([])
        return
    message = (
        "adapt.lr=0.5 is too high for the regulariser of eata, whose steps diverge above 0.47;"
    )
    with pytest.raises(
        ConfigError, match=message + r" set adapt\.lr=0\.47 or lower, or adapt\.fis"
    ):
        adapted.regularise([])


def test_a_fisher_information_that_is_not_finite_is_an_error(fragile: Predictor) -> None:
    message = (
        "the Fisher information of adapt.fisher is not finite, as the model's outputs for some"
    )
    with pytest.raises(DataError, match=message):
        stream_of(fragile, "eata").regularise([inputs().fill_(7)])


def test_the_fisher_information_is_the_mean_squared_gradient() -> None:
    parameter = leaf(1.0, 1.0, 1.0)
    batches = [BASE[:2], BASE[1:]]
    expected = []
    for batch in batches:
        logits = batch * parameter
        loss = functional.cross_entropy(logits, logits.argmax(1))
        expected.append(torch.autograd.grad(loss, parameter)[0] ** 2)
    unused = leaf(2.0)
    found = fisher_information(batches, lambda x: x * parameter, [parameter, unused])
    assert torch.allclose(found[0], torch.stack(expected).mean(0))
    assert found[1].item() == 0


def test_sar_takes_the_gradient_at_perturbed_parameters() -> None:
    parameter = leaf(1.0, 1.0, 1.0)
    (first,) = torch.autograd.grad(entropy_of(logits_of(parameter))[[0, 2]].mean(), parameter)
    moved = (parameter + 0.05 * first / first.norm()).detach().requires_grad_()
    (expected,) = torch.autograd.grad(entropy_of(logits_of(moved))[[0, 2]].mean(), moved)
    rule = SAR([parameter], 0.5)
    restore = rule.update(logits_of(parameter), lambda: logits_of(parameter))
    assert torch.allclose(parameter.detach(), 1 - 0.5 * expected, atol=1e-6)
    assert restore  # the entropy of both samples is below 0.03 of the largest one
    assert rule.mean == pytest.approx(entropy_of(logits_of(moved))[[0, 2]].mean().item(), rel=1e-4)
    assert SAR([leaf(0.35, 0.35, 0.35)], 0.5).update(
        logits_of(leaf(0.35, 0.35, 0.35)), lambda: logits_of(leaf(0.35, 0.35, 0.35))
    ) is False  # fmt: skip


def test_sar_leaves_out_the_last_layers() -> None:
    norms: list[nn.Module] = [nn.LayerNorm(2) for _ in range(9)]
    assert adapted_by_sar(norms) == norms[:7]
    assert adapted_by_sar(norms[:1]) == norms[:1]


# -- modes -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", METHODS)
def test_episodic_predictions_do_not_depend_on_earlier_batches(method, model) -> None:
    given = {} if method == "bn" else {"lr": 0.5, "steps": 2}
    adapted = stream_of(model, method, mode="episodic", **given)
    first = adapted.outputs(inputs())
    adapted.outputs(inputs(seed=1))
    assert np.array_equal(adapted.outputs(inputs()).logits, first.logits)
    before = stream_of(model, "bn").outputs(inputs()).logits
    assert np.array_equal(first.logits, before) is (method == "bn")  # after the steps


@pytest.mark.parametrize("method", ["tent", "eata", "sar"])
def test_the_model_is_the_trained_one_after_a_reset(method: str, model: Predictor) -> None:
    adapted = stream_of(model, method, lr=0.5, reset_every=16)
    found = [adapted.outputs(inputs(seed=seed)).logits for seed in (0, 1, 0, 1)]
    assert np.array_equal(found[0], found[2])
    assert np.array_equal(found[1], found[3])  # the momentum and the means were reset as well


@pytest.mark.parametrize("method", METHODS)
def test_a_restored_state_continues_the_same_stream(method: str, model: Predictor) -> None:
    given = {} if method == "bn" else {"lr": 0.5}
    whole, part = (stream_of(model, method, guard=True, **given) for _ in "ab")
    for seed in range(3):
        whole.outputs(inputs(32, seed))
        part.outputs(inputs(32, seed))
    resumed = stream_of(model, method, guard=True, **given)
    resumed.restore(part.state())
    for seed in range(3, 6):
        assert np.array_equal(
            whole.outputs(inputs(32, seed)).logits, resumed.outputs(inputs(32, seed)).logits
        )
    assert whole.state() == resumed.state()


def test_a_state_is_loaded_wherever_the_model_is(model: Predictor, monkeypatch) -> None:
    """Samples of the guard stay on the CPU, the means of EATA are with the parameters."""
    adapted, resumed = (stream_of(model, "eata", lr=0.5, guard=True) for _ in "ab")
    adapted.outputs(inputs(32))
    device = property(lambda _: torch.device("meta"))
    with monkeypatch.context() as patch:
        patch.setattr(type(resumed.module), "device", device)
        resumed.restore(adapted.state())
    assert resumed.guard.rows.device.type == "cpu"
    rule = EATA([nn.Parameter(torch.ones(3, device="meta"))], 0.5, None)
    rule.restore({"optimizer": rule.optimizer.state_dict(), "mean": torch.ones(3)})
    assert rule.mean is not None
    assert rule.mean.device.type == "meta"


def test_sar_continues_the_mean_of_the_loss_after_it_restored_the_model(model) -> None:
    adapted = stream_of(model, "sar", lr=0.5)
    rule = cast(SAR, adapted.rule)
    rule.mean = -10.0  # so low that the next losses do not raise it over the threshold
    for _ in range(2):
        adapted.outputs(inputs())
        assert rule.mean is not None
        assert rule.mean < -8
        assert torch.equal(adapted.parameters[0].detach(), adapted.start[0])
    assert adapted.counts["recoveries"] == adapted.counts["steps"] == 2


def test_sar_restores_the_trained_model(model: Predictor, monkeypatch) -> None:
    adapted = stream_of(model, "sar", lr=0.5)
    monkeypatch.setattr(SAR, "update", lambda *_: True)
    adapted.parameters[0].data.add_(1.0)
    adapted.outputs(inputs())
    assert torch.equal(adapted.parameters[0].detach(), adapted.start[0])
    assert adapted.counts["recoveries"] == 1


@pytest.mark.parametrize(("counted", "said"), [
    ({"steps": 3, "recoveries": 3}, "; nothing was learned, as each step was undone; pr"),
    ({}, "; nothing was learned, as no step was taken; probabilities are"),
    ({"steps": 3, "recoveries": 1, "not_finite": 2}, "the trained model 1 times; 2 samples"),
])  # fmt: skip
def test_the_last_line_says_if_nothing_was_adapted(counted, said) -> None:
    work: Any = SimpleNamespace(options=SimpleNamespace(adapt=options("sar")))
    summary: Any = SimpleNamespace(adapted=counted, counts={"readable": 9})
    assert said in _adapted(work, summary)
    work.options.adapt = options("bn")
    assert "nothing was learned" not in _adapted(work, summary)


# -- guard -----------------------------------------------------------------------------------------
def one_hot(classes: list[int], scale: float = 9.0) -> Tensor:
    return scale * functional.one_hot(torch.tensor(classes), 10).float()


MIXED = [k % 10 for k in range(100)]


@pytest.mark.parametrize(("trained", "adapted", "problem"), [
    (one_hot(MIXED), one_hot(MIXED), ""),
    (one_hot(MIXED), one_hot([0] * 100), "its predictions are as diverse as 1.0 classes, those of"),
    (one_hot(MIXED), one_hot([k % 6 for k in range(100)]), "it contradicts"),
    # The trained model is not sure, so that contradicting it is no sign of a collapse.
    (one_hot(MIXED, 0.1), one_hot([k % 6 for k in range(100)]), ""),
    # The trained model sees one class in everything: more classes are no collapse.
    (one_hot([3] * 100), one_hot(MIXED), ""),
    (one_hot(MIXED), one_hot(MIXED) * math.nan, "its outputs are not finite"),
    (one_hot(MIXED) * math.nan, one_hot(MIXED) * math.nan, ""),
    (one_hot(MIXED[:63]), one_hot([0] * 63), ""),  # too few
    (one_hot([0, 1] * 50), one_hot([0] * 100), "its predictions are as diverse as 1.0 classes"),
    # One class after another: a single other prediction is no sign.
    (one_hot([0] * 99 + [1]), one_hot([0] * 100), ""),
])  # fmt: skip
def test_what_the_guard_takes_for_a_collapse(trained, adapted, problem) -> None:
    found = Guard().problem(trained, adapted)
    assert problem in found
    assert bool(found) is bool(problem)


def test_the_guard_compares_the_last_samples() -> None:
    guard = Guard()
    for _ in range(5):
        assert not guard.problem(one_hot(MIXED), one_hot(MIXED))
    assert not guard.problem(one_hot(MIXED[:50]), one_hot([0] * 50))
    assert "the last 128 samples" in guard.problem(one_hot(MIXED), one_hot([0] * 100))


@pytest.mark.parametrize("reset_every", [None, 256])
def test_after_a_collapse_the_trained_model_predicts(reset_every, model, capsys) -> None:
    adapted = stream_of(model, "tent", lr=HIGH, guard=True, reset_every=reset_every)
    bare = stream_of(model, "tent", lr=HIGH, reset_every=reset_every)
    for seed in range(3):
        adapted.outputs(inputs(64, seed))
    trained = [np.array_equal(
        adapted.outputs(inputs(64, seed)).logits, model.outputs(inputs(64, seed)).logits
    ) for seed in range(3, 7)]  # fmt: skip
    assert trained == ([True] * 4 if reset_every is None else [True, False, *trained[2:]])
    assert adapted.counts["returns"] >= 1
    assert adapted.counts["by_trained_model"] >= 64
    told = capsys.readouterr().err
    assert "note: the adapted model collapsed after " in told
    until = "all samples from there on" if reset_every is None else "up to the next reset"
    assert until in told
    classes = np.unique([bare.outputs(inputs(64, seed)).logits.argmax(1) for seed in range(3)][-1])
    assert len(classes) == 1  # what the guard prevents


def test_outputs_that_are_not_finite_are_an_error_without_a_guard(model: Predictor) -> None:
    adapted = stream_of(model, "tent")
    adapted.parameters[0].data.fill_(math.nan)
    message = "the adapted model's outputs are not finite after 0 samples; set a lower adapt.lr"
    with pytest.raises(DataError, match=message):
        adapted.outputs(inputs())


def test_steps_before_the_returned_outputs_are_checked_as_well(model: Predictor) -> None:
    """With several steps, the outputs are those of the last forward pass."""
    adapted = stream_of(model, "tent", steps=2, guard=True)
    assert adapted.rule is not None
    adapted.rule.update = lambda *_: bool(adapted.parameters[0].data.fill_(math.nan).sum() < 0)
    found = adapted.outputs(inputs())
    assert np.array_equal(found.logits, model.outputs(inputs()).logits)
    assert adapted.counts["returns"] == 1


@pytest.mark.parametrize("given", [
    {"mode": "episodic", "steps": 3}, {"reset_every": 32},
])  # fmt: skip
def test_the_guard_decides_although_the_model_is_often_reset(given, model: Predictor) -> None:
    adapted = stream_of(model, "tent", lr=HIGH, guard=True, **given)
    adapted._forward = lambda x: (  # type: ignore[method-assign]
        torch.zeros(len(x), 3), one_hot([0] * len(x)) + 0 * adapted.parameters[0].sum()
    )  # fmt: skip
    adapted.trained = cast(Predictor, SimpleNamespace(
        outputs=lambda x: Outputs(np.zeros((len(x), 3)), one_hot(MIXED[:len(x)]).numpy())
    ))  # fmt: skip
    for seed in range(2):
        adapted.outputs(inputs(32, seed))
    assert adapted.counts["returns"] >= 1


def test_a_batch_of_the_episodic_mode_is_judged_by_16_samples() -> None:
    assert Guard(16).problem(one_hot(MIXED[:16]), one_hot([0] * 16))
    assert not Guard(16).problem(one_hot(MIXED[:15]), one_hot([0] * 15))


# -- values that are not finite --------------------------------------------------------------------
def test_the_guard_compares_sample_by_sample() -> None:
    trained, adapted = one_hot(MIXED), one_hot(MIXED)
    trained[3] = adapted[3] = math.nan
    assert not Guard().problem(trained, adapted)
    adapted[4] = math.nan
    assert Guard().problem(trained, adapted) == "its outputs are not finite"


@pytest.mark.parametrize("guard", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_a_sample_without_finite_outputs_leaves_the_others_alone(method, guard, fragile) -> None:
    """The others are predicted, and adapted to, as if it were not in the batch."""
    given = {} if method == "bn" else {"lr": 0.5}
    odd, bare = (stream_of(fragile, method, guard=guard, **given) for _ in "ab")
    batch = inputs(9)
    batch[4] = 7
    others = [0, 1, 2, 3, 5, 6, 7, 8]
    for _ in range(2):
        found, expected = odd.outputs(batch), bare.outputs(batch[others])
        assert np.isnan(found.logits[4]).all()
        assert np.isfinite(found.features[others]).all()
        assert np.array_equal(found.logits[others], expected.logits)
    assert odd.counts["by_trained_model"] == odd.counts["not_finite"] == 2
    assert odd.counts["returns"] == 0


def test_a_batch_without_finite_outputs_is_that_of_the_trained_model(fragile: Predictor) -> None:
    adapted = stream_of(fragile, "tent", lr=0.5)
    assert np.isnan(adapted.outputs(inputs().fill_(7)).logits).all()
    assert torch.equal(adapted.parameters[0].detach(), adapted.start[0])


@pytest.mark.parametrize("kind", [Tent, SAR])
def test_a_loss_that_is_not_finite_is_no_step(kind: type[Tent]) -> None:
    parameter = leaf(1.0, 1.0, 1.0)
    rule = kind([parameter], 0.5)
    bad = logits_of(parameter) * torch.tensor([[1.0], [math.nan], [1.0]])
    rule.update(bad, lambda: bad)
    assert parameter.detach().tolist() == [1.0, 1.0, 1.0]
    assert rule.taken == 0


def test_outputs_of_bn_that_are_not_finite_do_not_name_the_learning_rate(model) -> None:
    adapted = stream_of(model, "bn")
    adapted._forward = lambda x: (  # type: ignore[method-assign]
        torch.zeros(len(x), 3), torch.full((len(x), 10), math.nan)
    )  # fmt: skip
    with pytest.raises(DataError, match=r"after 0 samples; set adapt\.prior=16, or adapt"):
        adapted.outputs(inputs())


# -- command and Python ----------------------------------------------------------------------------
def test_defaults_and_options_are_documented() -> None:
    assert Options(adapt="tent").samples("cpu") == 64  # type: ignore[arg-type]
    assert "64 on a GPU or with adapt" in USAGE.sections["Computation"]["batch_size"]
    assert "``adapt``" in (tl.predict.__doc__ or "")
    assert "\n## A stream that the model adapts to\n" in (REPO / "docs/prediction.md").read_text()
    assert "#a-stream-that-the-model-adapts-to" in (REPO / "docs/python_api.md").read_text()
    listed = (REPO / "docs/api.md").read_text()
    assert all(f"{one.__module__}.{one.__name__}\n" in listed for one in (Options, AdaptOptions))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["bn", "eata"])
def test_predictions_depend_on_the_model_and_the_order_alone(
    method: str, trained: Path, photos: Path
) -> None:
    adapt = {"method": method} | ({"fisher": photos.glob("[0-3]?.png")} if method == "eata" else {})
    adapt |= {"lr": 0.1} if method == "eata" else {}
    plain = tl.predict(trained / "run", photos, batch_size=8)

    def found(checkpoint: Any, **more: Any) -> list[Any]:
        files = sorted(photos.glob("[0-3]?.png"))
        given = {**adapt, "fisher": files} if method == "eata" else adapt
        return tl.predict(checkpoint, photos, adapt=given, batch_size=8, **more)

    one, other = found(trained / "run", workers=1), found(trained / "run", workers=3)
    assert one == other
    assert [row.sample for row in one] == [row.sample for row in plain]
    assert [row.error for row in one] == [row.error for row in plain]
    assert any(a.probability != b.probability for a, b in zip(one, plain, strict=True))
    predictor = tl.Predictor.open(trained / "run")
    again = found(predictor)
    assert [row.label for row in again] == [row.label for row in one]
    unchanged = tl.predict(predictor, photos, batch_size=8)  # it is a copy that adapts
    assert [row.label for row in unchanged] == [row.label for row in plain]


@pytest.mark.slow
def test_samples_of_the_source_are_checked(trained: Path, photos: Path) -> None:
    def predict(fisher: Any) -> None:
        tl.predict(trained / "run", photos, adapt={"method": "eata", "fisher": fisher})

    with pytest.raises(DataError, match=r"adapt\.fisher=.*absent not found; set adapt.fisher=<"):
        predict(photos / "absent")
    with pytest.raises(DataError, match=r"samples of adapt\.fisher cannot be read: .*07a\.png"):
        predict(photos)
    with pytest.raises(DataError, match=r"adapt\.fisher is empty; set adapt\.fisher=<samples of"):
        predict([])


def test_the_input_is_found_before_the_regulariser_is_computed(
    trained: Path, photos: Path, monkeypatch
) -> None:
    def computed(*_: Any) -> None:
        pytest.fail("computed before the input was found")

    monkeypatch.setattr(streams, "fisher_information", computed)
    adapt = {"method": "eata", "fisher": sorted(photos.glob("0[0-6].png"))}
    with pytest.raises(DataError, match=r"input=.*absent not found"):
        tl.predict(trained / "run", photos / "absent", adapt=adapt)
    given = [f"checkpoint={trained / 'run'}", f"input={photos / 'absent'}", "adapt=eata"]
    with pytest.raises(DataError, match=r"input=.*absent not found"):
        _predict([*given, f"adapt.fisher={photos}/0[0-6].png"])


def test_the_column_of_a_table_of_the_source(trained: Path, photos: Path, tmp_path, capsys) -> None:
    rows = "\n".join(f"x,{photos / f'{k:02d}.png'}" for k in range(4))
    (table := tmp_path / "a.csv").write_text(f"image,place\n{rows}\n")
    (other := tmp_path / "b.csv").write_text(f"name,where\n{rows}\n")
    given = [f"checkpoint={trained / 'run'}", "adapt=eata", "adapt.lr=1e-6"]
    _predict([*given, f"input={table}", "column=place", f"adapt.fisher={table}"])
    _predict([*given, f"input={photos}", "adapt.column=where", f"adapt.fisher={other}"])
    assert "4 of 4" not in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"^adapt\.column=wo is not in adapt\.fisher=.*b\.csv"):
        _predict([*given, f"input={photos}", "adapt.column=wo", f"adapt.fisher={other}"])
    message = r"^adapt\.fisher=.*b\.csv has the columns name, where, .*; set adapt\.column=<name>$"
    with pytest.raises(ConfigError, match=message):
        _predict([*given, f"input={photos}", f"adapt.fisher={other}"])
    message = r"^adapt\.column=a has no effect on adapt\.fisher=.*; remove adapt\.column$"
    with pytest.raises(ConfigError, match=message):
        _predict([*given, f"input={photos}", f"adapt.fisher={photos}", "adapt.column=a"])


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_command_writes_the_same_file(
    method: str, trained: Path, photos: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    given = [f"checkpoint={trained / 'run'}", f"input={photos}", "batch_size=4", f"adapt={method}"]
    given += ["adapt.lr=0.1"] if method != "bn" else []
    given += [f"adapt.fisher={photos}/0[0-6].png"] if method == "eata" else []
    _predict([*given, f"out={tmp_path / 'whole.csv'}"])
    said = capsys.readouterr().out
    assert (
        f"adapt={method} (online): predictions depend on the order of the input; the guard" in said
    )
    assert "expected accuracy" not in said
    for number in (2, 3):
        killed_after(number, [*given, f"out={tmp_path / 'out.csv'}"], monkeypatch)
        assert len(list((tmp_path / ".out.csv.draft").glob("adaptation-*"))) <= 2
    _predict([*given, f"out={tmp_path / 'out.csv'}"])
    assert "continuing after 20 samples of an interrupted command" in capsys.readouterr().err
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_another_adaptation_starts_again(trained, photos, tmp_path, capsys, monkeypatch) -> None:
    given = [f"checkpoint={trained / 'run'}", f"input={photos}", f"out={tmp_path / 'out.csv'}"]
    killed_after(2, [*given, "batch_size=4", "adapt=tent"], monkeypatch)
    _predict([*given, "batch_size=4", "adapt=tent", "adapt.lr=0.1"])
    assert "had another adapt; starting again" in capsys.readouterr().err


def test_texts_are_adapted_to_in_their_order(monkeypatch) -> None:
    from tl_lightning.inference.reading import chunk_size

    monkeypatch.setattr(Predictor, "kind", "texts")
    model = cast(Predictor, object.__new__(Predictor))
    assert chunk_size(model, 4, in_order=True) == 4
    assert chunk_size(model, 4, in_order=False) == 64
