"""Comparison of single steps of adaptation methods with pytorch-adapt and PyKale.

    pip install --no-deps --target /tmp/peers pytorch-adapt pykale pytorch-metric-learning
    PYTHONPATH=/tmp/peers python benchmarks/peer_losses.py

Written for pytorch-adapt 0.0.83 and PyKale 0.2.1. All libraries use the same features, the same
classifier and copies of the same discriminator; the peers' own hooks, trainers and losses are
called. Each row shows both losses, and the largest difference of the gradients with respect to the
features and to the discriminator, relative to the largest entry of tl_lightning's gradient. `equal`
means that no gradient differs by more than 1e-5 in this measure, and no loss by more than 1e-5
(relative, if it is above 1); otherwise the reason is printed below. An indented row changes only
what the preceding reason names, or the batch, on one side: equality in this row confirms the
reason. The script exits with 1 if a row differs without a reason. A peer that cannot be imported is
skipped with a message.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import torch
from peer_steps import (
    ADVERSARY,
    CRITIC,
    MULTIPLIERS,
    OTHER,
    PENALTY,
    PROGRESS,
    RANDOM,
    Batch,
    D,
    K,
    N,
    Row,
    Step,
    batch,
    hooked,
    line,
    method,
    own_step,
    step,
    term,
    trained,
)
from torch import Tensor, nn

from tl_lightning.layers import perceptron
from tl_lightning.methods.afn import AFN
from tl_lightning.methods.bnm import BNM
from tl_lightning.methods.bsp import BSP
from tl_lightning.methods.cdan import CDAN
from tl_lightning.methods.components.adversary import domain_loss
from tl_lightning.methods.components.kernels import gaussian_kernel, squared_distances
from tl_lightning.methods.coral import CORAL
from tl_lightning.methods.dann import DANN
from tl_lightning.methods.entropy import Entropy
from tl_lightning.methods.jan import JAN
from tl_lightning.methods.mcc import MCC
from tl_lightning.methods.mcd import discrepancy
from tl_lightning.methods.mmd import MMD
from tl_lightning.methods.wdgrl import gradient_penalty
from tl_lightning.types import Context

FLOWS = "the peer does not detach the class probabilities; tl_lightning does"


def adapt_dann() -> Iterator[Row]:
    hooks, weighters = (
        import_module("pytorch_adapt.hooks"),
        import_module("pytorch_adapt.weighters"),
    )
    dann, given = method(DANN, **ADVERSARY), batch()
    weight = {"gradient_reversal_weight": dann.strength(Context(PROGRESS))}

    def hook(opts: Any, **more: Any) -> Any:
        return hooks.DANNHook(opts=opts, **weight, **more)

    def domain_only(opts: Any) -> Any:
        return hook(opts, c_hook=hooks.EmptyHook())

    for setting, b in (("domain loss", given), (f"{N} source, {OTHER} target", batch(OTHER))):
        yield Row("DANN", setting, own_step(dann, b), hooked(dann, b, domain_only))
    total = own_step(dann, given, task=True)
    yield Row(
        "DANN", "with class loss, default", total, hooked(dann, given, hook),
        "the peer's total is the mean of class loss, source term and target term: a third of the "
        "class loss and two thirds of the domain loss of tl_lightning",
    )  # fmt: skip
    halves = weighters.SumWeighter(weights={"src_domain_loss": 0.5, "target_domain_loss": 0.5})
    peer = hooked(dann, given, lambda opts: hook(opts, weighter=halves))
    yield Row("DANN", "with class loss, sum with weights 1/2 1/2 1", total, peer)


def adapt_cdan() -> Iterator[Row]:
    hooks, layers = import_module("pytorch_adapt.hooks"), import_module("pytorch_adapt.layers")
    cdan_hooks = import_module("pytorch_adapt.hooks.cdan")
    normalizers = import_module("pytorch_adapt.layers.normalizers")
    cdan, given = method(CDAN, entropy=False, largest=RANDOM, **ADVERSARY), batch()
    weight = {
        "gradient_reversal_weight": cdan.strength(Context(PROGRESS)),
        "c_hook": hooks.EmptyHook(),
    }
    product = layers.RandomizedDotProduct([D, K], RANDOM)
    product.rand_mat0, product.rand_mat1 = cdan.of_features, cdan.of_shares

    def detached(features: Tensor, probabilities: Tensor) -> Any:
        return product(features, probabilities.detach())

    def reversal(opts: Any, **more: Any) -> Any:
        f_hook, fc_hook, _ = cdan_hooks.get_cdan_features_hooks(True)
        domain = cdan_hooks.CDANDomainHook("", detach_features=False, reverse_labels=False)
        both = hooks.ChainHook(f_hook, fc_hook)
        return hooks.DANNHook(opts=opts, f_hook=both, domain_loss_hook=domain, **weight, **more)

    def alternating(**opts: Any) -> Any:
        return hooks.CDANHook(c_hook=hooks.EmptyHook(), **opts)

    own = own_step(cdan, given)
    yield Row("CDAN", "random map, reversal", own, hooked(cdan, given, reversal, product), FLOWS)
    yield Row("CDAN", "  detached probabilities", own, hooked(cdan, given, reversal, detached))
    critic, features = Step(own.loss, [], own.discriminator), Step(own.loss, own.features, [])
    peer = hooked(cdan, given, alternating, detached, "d_loss")
    yield Row("CDAN", "CDANHook: discriminator", critic, peer)
    peer = hooked(cdan, given, alternating, detached, "g_loss")
    yield Row(
        "CDAN", "CDANHook: features", features, peer,
        "the peer does not reverse gradients: the features minimise the loss with swapped domain "
        "labels, at full weight; in tl_lightning they maximise the loss with the true labels, "
        "weighted by lambda",
    )  # fmt: skip
    at = given.leaves()
    outs = [cdan.domain_logits(f, at.classify(f)) for f in (at.source, at.target)]
    swapped = step(domain_loss(-outs[0], -outs[1]), at)
    yield Row("CDAN", "  swapped labels instead of reversal", swapped, peer)
    cdan.entropy = True
    own, losses = own_step(cdan, given), ["src_domain_loss", "target_domain_loss"]
    yield Row(
        "CDAN+E", "CDANNEHook, detached probabilities", own,
        hooked(cdan, given, lambda opts: hooks.CDANNEHook(opts=opts, **weight), detached),
        "the peer's sample weights have a maximum of 1; in tl_lightning, as in the authors' code, "
        "they have a mean of 1",
    )  # fmt: skip
    mean = layers.EntropyWeights(normalizer=normalizers.SumNormalizer(scale_by_batch_size=True))
    reducer = hooks.EntropyReducer(
        apply_to=losses, default_reducer=hooks.MeanReducer(), entropy_weights_fn=mean
    )
    peer = hooked(cdan, given, lambda opts: reversal(opts, reducer=reducer), detached)
    yield Row("CDAN+E", "  weights with mean 1", own, peer)


def mean_width(b: Batch) -> float:
    """Return the bandwidth of tl_lightning's kernels: the mean squared pairwise distance."""
    both = torch.cat([b.source, b.target])
    return squared_distances(both).sum().item() / (len(both) * (len(both) - 1))


def adapt_terms() -> Iterator[Row]:
    layers, given = import_module("pytorch_adapt.layers"), batch()
    params = {"multipliers": MULTIPLIERS, "unbiased": True, **PENALTY}
    linear, scales = layers.MMDLoss(), 1 / torch.tensor(MULTIPLIERS)

    def quadratic(b: Batch) -> Any:
        return layers.MMDLoss(scales, "quadratic", bandwidth=mean_width(b))(b.source, b.target)

    own = own_step(method(MMD, **params), given)
    reason = (
        "the peer uses N/2 pairs of samples (linear time) and a single kernel, whose bandwidth is "
        "the median of the squared distances within the source, including the zero diagonal"
    )
    yield Row("MMD", "default", own, term(lambda b: linear(b.source, b.target), given), reason)
    yield Row("MMD", "  quadratic, same scales and bandwidth", own, term(quadratic, given))
    other = batch(OTHER)
    own = own_step(method(MMD, **params), other)
    yield Row("MMD", f"  the same, {N} source, {OTHER} target", own, term(quadratic, other))
    width = {"bandwidth": mean_width(given)}
    single = layers.MMDLoss(1, "quadratic", **width)
    joint = method(JAN, **{**params, "multipliers": (1.0,)}, **width)

    def pair(b: Batch) -> list[list[Tensor]]:
        return [[x, b.classify(x).softmax(1)] for x in (b.source, b.target)]

    peer = term(lambda b: single(*pair(b)), given)
    yield Row("JAN", "quadratic, same bandwidth for both layers", own_step(joint, given), peer)
    coral, afn = layers.CORALLoss(), layers.AdaptiveFeatureNorm(1.0)
    bsp, mcd = layers.BatchSpectralLoss(2), layers.MCDLoss()
    mcc, bnm, entropy = layers.MCCLoss(T=2.5), layers.BNMLoss(), layers.EntropyLoss()
    losses: list[tuple[Any, dict[str, Any], Callable[[Batch], Tensor]]] = [
        (CORAL, {}, lambda b: coral(b.source, b.target)),
        (AFN, {"step": 1.0}, lambda b: afn(b.source) + afn(b.target)),
        (BSP, {"k": 2}, lambda b: bsp(b.source) + bsp(b.target)),
        (MCC, {"temperature": 2.5}, lambda b: mcc(b.classify(b.target))),
        (BNM, {}, lambda b: bnm(b.classify(b.target))),
        (Entropy, {}, lambda b: entropy(b.classify(b.target))),
    ]
    for cls, more, loss in losses:
        own = own_step(method(cls, **more, **PENALTY), given)
        yield Row(cls.__name__, "loss", own, term(loss, given))
    second = nn.Linear(D, K)
    yield Row(
        "MCD", "discrepancy of two classifiers",
        term(lambda b: discrepancy(b.classify(b.target), second(b.target)), given),
        term(lambda b: mcd(b.classify(b.target), second(b.target)), given),
    )  # fmt: skip


def kale_adversaries() -> Iterator[Row]:
    given, uneven = batch(), batch(OTHER)
    dann = method(DANN, **ADVERSARY)
    alpha = {"alpha": dann.strength(Context(PROGRESS))}
    own = own_step(dann, given)
    yield Row(
        "DANN", "default", own, trained(dann, given, "DANNTrainer", ramp=True),
        "the peer multiplies the loss by lambda, so that the gradient of the discriminator is also "
        "scaled by lambda; the gradient of the features is the same",
    )  # fmt: skip
    yield Row("DANN", "  alpha = lambda", own, trained(dann, given, "DANNTrainer", **alpha))
    yield Row(
        "DANN", f"  the same, {N} source, {OTHER} target", own_step(dann, uneven),
        trained(dann, uneven, "DANNTrainer", **alpha),
        "the peer takes the mean over all samples, so the larger domain has a larger weight; in "
        "tl_lightning both domains have the same weight",
    )  # fmt: skip
    cdan = method(CDAN, entropy=False, largest=4096, **ADVERSARY)
    own = own_step(cdan, given)
    yield Row("CDAN", "alpha = lambda", own, trained(cdan, given, "CDANTrainer", **alpha), FLOWS)
    peer = trained(cdan, given, "CDANTrainer", constant=True, **alpha)
    yield Row("CDAN", "  detached probabilities", own, peer)
    cdan.entropy = True
    params = {"use_entropy_weight": True, **alpha}
    for b, setting in ((given, ""), (uneven, f", {N} source, {OTHER} target")):
        yield Row(
            "CDAN+E", "alpha = lambda" + setting, own_step(cdan, b),
            trained(cdan, b, "CDANTrainer", **params),
            "the peer does not detach probabilities and sample weights (reversed, as in the "
            "authors' code); tl_lightning does. The peer's entropy uses log(p + 1e-5)",
        )  # fmt: skip
        peer = trained(cdan, b, "CDANTrainer", constant=True, **params)
        yield Row("CDAN+E", "  detached probabilities and weights", own_step(cdan, b), peer)


def averaged(kernel: Tensor, estimate: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Return the mean of an estimate over permutations of the batch that form all pairs."""
    i = torch.arange(N)
    estimates = []
    for stride in range(1, N):
        for shift in range(N):
            order = torch.cat([stride * i % N, (stride * i + shift) % N + N])
            estimates.append(estimate(kernel[order][:, order], N))
    return torch.stack(estimates).mean()


def kale_terms() -> Iterator[Row]:
    losses, given = import_module("kale.evaluate.metrics"), batch()
    params = {"multipliers": MULTIPLIERS, "unbiased": True, **PENALTY}
    mmd, jan = method(MMD, **params), method(JAN, **params, bandwidth=1.68)
    weights = torch.randn(2 * N, 2 * N)

    def kernel(b: Batch) -> Any:
        return losses.gaussian_kernel(b.source, b.target)

    def joint(b: Batch) -> Any:
        probabilities = [b.classify(x).softmax(1) for x in (b.source, b.target)]
        return kernel(b) * losses.gaussian_kernel(*probabilities, 2.0, 1, fix_sigma=1.68)

    yield Row(
        "MMD", "kernels, sum of 5 divided by 5",
        term(lambda b: (weights * gaussian_kernel(torch.cat([b.source, b.target]),
                                                  MULTIPLIERS)).sum(), given),
        term(lambda b: (weights * kernel(b)).sum() / 5, given),
    )  # fmt: skip
    for mmd_or_jan, name, of in ((mmd, "DANTrainer", kernel), (jan, "JANTrainer", joint)):
        own, title = own_step(mmd_or_jan, given), type(mmd_or_jan).__name__
        yield Row(
            title, "default", own, trained(mmd_or_jan, given, name),
            "the peer sums its 5 kernels (tl_lightning: mean) and pairs each sample only with its "
            "neighbour in the batch (tl_lightning: with all others)",
        )  # fmt: skip
        yield Row(
            title, "  mean over permutations, divided by 5", own,
            term(lambda b, of=of: averaged(of(b), losses.compute_mmd_loss) / 5, given),
        )  # fmt: skip
    yield Row(
        "Entropy", "loss", own_step(method(Entropy, **PENALTY), given),
        term(lambda b: losses.entropy_logits_loss(b.classify(b.target)), given),
        "the peer's entropy uses log(p + 1e-5)",
    )  # fmt: skip
    critic = perceptron(D, CRITIC["width"], CRITIC["depth"], 0.0, "tanh")
    torch.manual_seed(3)
    peer = losses.gradient_penalty(critic, given.source, given.target)
    torch.manual_seed(3)
    own = gradient_penalty(critic, given.source, given.target, 1 - torch.rand(N, 1))
    at = given.leaves()
    yield Row("WDGRL", "gradient penalty", step(own, at, critic), step(peer, at, critic))


def main() -> None:
    warnings.simplefilter("ignore")
    adapt, kale = (adapt_dann, adapt_cdan, adapt_terms), (kale_adversaries, kale_terms)
    columns = f"{'method':8}{'peer':14}{'setting':44}{'own loss':>11}{'peer loss':>11}"
    print(f"{columns}{'features':>10}{'discr.':>10}")
    success = True
    for peer, module, parts in (
        ("pytorch-adapt", "pytorch_adapt.hooks", adapt),
        ("PyKale", "kale.pipeline.domain_adapter", kale),
    ):
        try:
            import_module(module)
        except ImportError as problem:
            print(f"{peer} skipped: {problem}")
            continue
        for part in parts:
            for row in part():
                success &= line(peer, row)
    sys.exit(not success)


if __name__ == "__main__":
    main()
