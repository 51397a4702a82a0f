"""One step of our adaptation methods against pytorch-adapt's and PyKale's, on the same tensors.

    pip install --no-deps --target /tmp/peers pytorch-adapt pykale pytorch-metric-learning
    PYTHONPATH=/tmp/peers python benchmarks/peers.py

Written against pytorch-adapt 0.0.83 and PyKale 0.2.1. Both sides get the same features, the same
classifier and copies of the same discriminator; the peers' own hooks, trainers and losses do the
work. A row holds both losses, and the largest difference of the gradients at the features and at
the discriminator, relative to the largest entry of ours. `equal` means that no gradient differs by
more than 1e-5 of that, and no loss by more than 1e-5 (of itself, where it is above 1); else the
reason follows. An indented row changes on one side what the reason above it names, or the batch,
and nothing else: equality there proves the reason. The script ends with 1 where a row differs
without a reason. A peer that cannot be imported is left out, and said so.
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
    step,
    taken,
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

FLOWS = "gradient flows through its class probabilities too; ours are constants"


def adapt_dann() -> Iterator[Row]:
    hooks, weighters = (
        import_module("pytorch_adapt.hooks"),
        import_module("pytorch_adapt.weighters"),
    )
    ours, given = method(DANN, **ADVERSARY), batch()
    weight = {"gradient_reversal_weight": ours.strength(PROGRESS)}

    def hook(opts: Any, **more: Any) -> Any:
        return hooks.DANNHook(opts=opts, **weight, **more)

    def alone(opts: Any) -> Any:
        return hook(opts, c_hook=hooks.EmptyHook())

    for words, b in (("domain loss", given), (f"{N} source, {OTHER} target", batch(OTHER))):
        yield Row("DANN", words, taken(ours, b), hooked(ours, b, alone))
    whole = taken(ours, given, task=True)
    yield Row(
        "DANN", "with the class loss, as it stands", whole, hooked(ours, given, hook),
        "its total is the mean of class loss, source term and target term: a third of the class "
        "loss and two thirds of our domain loss",
    )  # fmt: skip
    halves = weighters.SumWeighter(weights={"src_domain_loss": 0.5, "target_domain_loss": 0.5})
    theirs = hooked(ours, given, lambda opts: hook(opts, weighter=halves))
    yield Row("DANN", "with the class loss, sum, weights 1/2 1/2 1", whole, theirs)


def adapt_cdan() -> Iterator[Row]:
    hooks, layers = import_module("pytorch_adapt.hooks"), import_module("pytorch_adapt.layers")
    cdan, norms = import_module("pytorch_adapt.hooks.cdan"), "pytorch_adapt.layers.normalizers"
    ours, given = method(CDAN, entropy=False, largest=RANDOM, **ADVERSARY), batch()
    weight = {"gradient_reversal_weight": ours.strength(PROGRESS), "c_hook": hooks.EmptyHook()}
    product = layers.RandomizedDotProduct([D, K], RANDOM)
    product.rand_mat0, product.rand_mat1 = ours.of_features, ours.of_shares

    def cut(features: Tensor, shares: Tensor) -> Any:
        return product(features, shares.detach())

    def reversal(opts: Any, **more: Any) -> Any:
        f_hook, fc_hook, _ = cdan.get_cdan_features_hooks(True)
        domain = cdan.CDANDomainHook("", detach_features=False, reverse_labels=False)
        both = hooks.ChainHook(f_hook, fc_hook)
        return hooks.DANNHook(opts=opts, f_hook=both, domain_loss_hook=domain, **weight, **more)

    def turns(**opts: Any) -> Any:
        return hooks.CDANHook(c_hook=hooks.EmptyHook(), **opts)

    mine = taken(ours, given)
    yield Row("CDAN", "random map, reversal", mine, hooked(ours, given, reversal, product), FLOWS)
    yield Row("CDAN", "  probabilities cut", mine, hooked(ours, given, reversal, cut))
    critic, features = Step(mine.loss, [], mine.discriminator), Step(mine.loss, mine.features, [])
    yield Row("CDAN", "CDANHook: discriminator", critic, hooked(ours, given, turns, cut, "d_loss"))
    yield Row(
        "CDAN", "CDANHook: features", features, hooked(ours, given, turns, cut, "g_loss"),
        "it has no reversal: the features minimise the loss with the domains' labels swapped, at "
        "full weight; ours raise the loss with the true ones, lambda times",
    )  # fmt: skip
    at = given.leaves()
    outs = [ours.domain_logits(f, at.classify(f)) for f in (at.source, at.target)]
    swapped = step(domain_loss(-outs[0], -outs[1]), at)
    theirs = hooked(ours, given, turns, cut, "g_loss")
    yield Row("CDAN", "  ours with labels swapped, not reversed", swapped, theirs)
    ours.entropy = True
    mine, losses = taken(ours, given), ["src_domain_loss", "target_domain_loss"]
    yield Row(
        "CDAN+E", "CDANNEHook, probabilities cut", mine,
        hooked(ours, given, lambda opts: hooks.CDANNEHook(opts=opts, **weight), cut),
        "its samples' weights have a maximum of 1; ours, as the authors', a mean of 1",
    )  # fmt: skip
    mean = layers.EntropyWeights(
        normalizer=import_module(norms).SumNormalizer(scale_by_batch_size=True)
    )
    reducer = hooks.EntropyReducer(
        apply_to=losses, default_reducer=hooks.MeanReducer(), entropy_weights_fn=mean
    )
    theirs = hooked(ours, given, lambda opts: reversal(opts, reducer=reducer), cut)
    yield Row("CDAN+E", "  weights of mean 1", mine, theirs)


def mean_width(b: Batch) -> float:
    """Return our kernels' width: the mean squared distance of two different samples."""
    both = torch.cat([b.source, b.target])
    return squared_distances(both).sum().item() / (len(both) * (len(both) - 1))


def adapt_terms() -> Iterator[Row]:
    layers, given = import_module("pytorch_adapt.layers"), batch()
    knobs = {"multipliers": MULTIPLIERS, "unbiased": True, **PENALTY}
    linear, scales = layers.MMDLoss(), 1 / torch.tensor(MULTIPLIERS)

    def quadratic(b: Batch) -> Any:
        return layers.MMDLoss(scales, "quadratic", bandwidth=mean_width(b))(b.source, b.target)

    ours = taken(method(MMD, **knobs), given)
    why = (
        "it takes N/2 pairs of samples (linear time) and one kernel, whose width is the median of "
        "the source's squared distances, zeros of the diagonal included"
    )
    yield Row("MMD", "as it stands", ours, term(lambda b: linear(b.source, b.target), given), why)
    yield Row("MMD", "  quadratic, our scales and mean width", ours, term(quadratic, given))
    other = batch(OTHER)
    ours = taken(method(MMD, **knobs), other)
    yield Row("MMD", f"  the same, {N} source, {OTHER} target", ours, term(quadratic, other))
    one = {"bandwidth": mean_width(given)}
    single = layers.MMDLoss(1, "quadratic", **one)
    joint = method(JAN, **{**knobs, "multipliers": (1.0,)}, **one)

    def pair(b: Batch) -> list[list[Tensor]]:
        return [[x, b.classify(x).softmax(1)] for x in (b.source, b.target)]

    theirs = term(lambda b: single(*pair(b)), given)
    yield Row("JAN", "quadratic, one width for both layers", taken(joint, given), theirs)
    coral, afn = layers.CORALLoss(), layers.AdaptiveFeatureNorm(1.0)
    bsp, mcd = layers.BatchSpectralLoss(2), layers.MCDLoss()
    mcc, bnm, entropy = layers.MCCLoss(T=2.5), layers.BNMLoss(), layers.EntropyLoss()
    found: list[tuple[Any, dict[str, Any], Callable[[Batch], Tensor]]] = [
        (CORAL, {}, lambda b: coral(b.source, b.target)),
        (AFN, {"step": 1.0}, lambda b: afn(b.source) + afn(b.target)),
        (BSP, {"k": 2}, lambda b: bsp(b.source) + bsp(b.target)),
        (MCC, {"temperature": 2.5}, lambda b: mcc(b.classify(b.target))),
        (BNM, {}, lambda b: bnm(b.classify(b.target))),
        (Entropy, {}, lambda b: entropy(b.classify(b.target))),
    ]
    for cls, more, of in found:
        mine = taken(method(cls, **more, **PENALTY), given)
        yield Row(cls.__name__, "the term", mine, term(of, given))
    second = nn.Linear(D, K)
    yield Row(
        "MCD", "discrepancy of two classifiers",
        term(lambda b: discrepancy(b.classify(b.target), second(b.target)), given),
        term(lambda b: mcd(b.classify(b.target), second(b.target)), given),
    )  # fmt: skip


def kale_adversaries() -> Iterator[Row]:
    given, uneven = batch(), batch(OTHER)
    dann = method(DANN, **ADVERSARY)
    alpha = {"alpha": dann.strength(PROGRESS)}
    ours = taken(dann, given)
    yield Row(
        "DANN", "as it stands", ours, trained(dann, given, "DANNTrainer", ramp=True),
        "its lambda multiplies the loss, so the discriminator learns lambda times as fast too; the "
        "features' gradient is the same",
    )  # fmt: skip
    yield Row("DANN", "  alpha = lambda", ours, trained(dann, given, "DANNTrainer", **alpha))
    yield Row(
        "DANN", f"  the same, {N} source, {OTHER} target", taken(dann, uneven),
        trained(dann, uneven, "DANNTrainer", **alpha),
        "it takes the mean over all samples, so the larger domain weighs more; ours weighs both "
        "domains alike",
    )  # fmt: skip
    cdan = method(CDAN, entropy=False, largest=4096, **ADVERSARY)
    ours = taken(cdan, given)
    yield Row("CDAN", "alpha = lambda", ours, trained(cdan, given, "CDANTrainer", **alpha), FLOWS)
    theirs = trained(cdan, given, "CDANTrainer", constant=True, **alpha)
    yield Row("CDAN", "  probabilities cut", ours, theirs)
    cdan.entropy = True
    knobs = {"use_entropy_weight": True, **alpha}
    for b, words in ((given, ""), (uneven, f", {N} source, {OTHER} target")):
        yield Row(
            "CDAN+E", "alpha = lambda" + words, taken(cdan, b),
            trained(cdan, b, "CDANTrainer", **knobs),
            "gradient flows through its probabilities and its samples' weights (reversed, as in "
            "the authors' code); ours are constants. Its entropy has log(p + 1e-5)",
        )  # fmt: skip
        theirs = trained(cdan, b, "CDANTrainer", constant=True, **knobs)
        yield Row("CDAN+E", "  probabilities and weights cut", taken(cdan, b), theirs)


def averaged(kernel: Tensor, estimate: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Return the mean of an estimate over orders of the batch that pair all samples alike."""
    i = torch.arange(N)
    found = []
    for stride in range(1, N):
        for shift in range(N):
            order = torch.cat([stride * i % N, (stride * i + shift) % N + N])
            found.append(estimate(kernel[order][:, order], N))
    return torch.stack(found).mean()


def kale_terms() -> Iterator[Row]:
    losses, given = import_module("kale.evaluate.metrics"), batch()
    knobs = {"multipliers": MULTIPLIERS, "unbiased": True, **PENALTY}
    mmd, jan = method(MMD, **knobs), method(JAN, **knobs, bandwidth=1.68)
    weights = torch.randn(2 * N, 2 * N)

    def kernel(b: Batch) -> Any:
        return losses.gaussian_kernel(b.source, b.target)

    def joint(b: Batch) -> Any:
        shares = [b.classify(x).softmax(1) for x in (b.source, b.target)]
        return kernel(b) * losses.gaussian_kernel(*shares, 2.0, 1, fix_sigma=1.68)

    yield Row(
        "MMD", "the kernels, 5 of them summed, over 5",
        term(lambda b: (weights * gaussian_kernel(torch.cat([b.source, b.target]),
                                                  MULTIPLIERS)).sum(), given),
        term(lambda b: (weights * kernel(b)).sum() / 5, given),
    )  # fmt: skip
    for adapter, name, of in ((mmd, "DANTrainer", kernel), (jan, "JANTrainer", joint)):
        ours, title = taken(adapter, given), type(adapter).__name__
        yield Row(
            title, "as it stands", ours, trained(adapter, given, name),
            "it sums its 5 kernels (ours: mean) and pairs each sample with its neighbour in the "
            "batch alone (ours: with all others)",
        )  # fmt: skip
        yield Row(
            title, "  mean over orders of the batch, over 5", ours,
            term(lambda b, of=of: averaged(of(b), losses.compute_mmd_loss) / 5, given),
        )  # fmt: skip
    yield Row(
        "Entropy", "the term", taken(method(Entropy, **PENALTY), given),
        term(lambda b: losses.entropy_logits_loss(b.classify(b.target)), given),
        "log(p + 1e-5) in its entropy",
    )  # fmt: skip
    critic = perceptron(D, CRITIC["width"], CRITIC["depth"], 0.0, "tanh")
    torch.manual_seed(3)
    theirs = losses.gradient_penalty(critic, given.source, given.target)
    torch.manual_seed(3)
    ours = gradient_penalty(critic, given.source, given.target, 1 - torch.rand(N, 1))
    at = given.leaves()
    yield Row("WDGRL", "gradient penalty", step(ours, at, critic), step(theirs, at, critic))


def main() -> None:
    warnings.simplefilter("ignore")
    adapt, kale = (adapt_dann, adapt_cdan, adapt_terms), (kale_adversaries, kale_terms)
    print(
        f"{'method':8}{'peer':14}{'what':44}{'ours':>11}{'theirs':>11}{'features':>10}{'discr.':>10}"
    )
    fine = True
    for peer, module, parts in (
        ("pytorch-adapt", "pytorch_adapt.hooks", adapt),
        ("PyKale", "kale.pipeline.domain_adapter", kale),
    ):
        try:
            import_module(module)
        except ImportError as fault:
            print(f"{peer} is left out: {fault}")
            continue
        for part in parts:
            for row in part():
                fine &= line(peer, row)
    sys.exit(not fine)


if __name__ == "__main__":
    main()
