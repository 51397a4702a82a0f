"""The two sides of `peers.py`: one step of ours, one of pytorch-adapt's or PyKale's."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tl_lightning.methods.base import Adapter
from tl_lightning.types import Context, View

# A prime number of samples, so that N (N - 1) orders of a batch pair every two of them once.
N, OTHER, D, K, WIDTH, RANDOM = 17, 9, 12, 5, 32, 40
PROGRESS, MAX_LAMBDA, MULTIPLIERS = 0.2, 0.3, (0.25, 0.5, 1.0, 2.0, 4.0)
LIMIT = 1e-5
PENALTY = {"weight": 1.0, "ramp": "none", "gather": False}
CRITIC = {"width": WIDTH, "depth": 2, "activation": "relu"}
ADVERSARY = {**CRITIC, "max_lambda": MAX_LAMBDA, "gain": 10.0, "dropout": 0.0}


@dataclass
class Batch:
    """Features of both domains as leaves, the source's labels, and the classifier of both."""

    source: Tensor
    target: Tensor
    labels: Tensor
    classify: nn.Linear

    def leaves(self) -> Batch:
        """Return a copy whose gradients are its own."""
        parts = [part.detach().clone().requires_grad_() for part in (self.source, self.target)]
        return Batch(*parts, self.labels, deepcopy(self.classify))


@dataclass
class Step:
    """A loss, its gradients at both domains' features and at the discriminator."""

    loss: float
    features: list[Tensor]
    discriminator: list[Tensor]


@dataclass
class Row:
    """A comparison; ``reason`` says why it may differ."""

    method: str
    setting: str
    ours: Step
    theirs: Step
    reason: str = ""


def batch(m: int = N) -> Batch:
    torch.manual_seed(1)
    classify = nn.Linear(D, K)
    nn.init.normal_(classify.weight, std=0.5)
    return Batch(torch.randn(N, D), torch.randn(m, D) + 0.5, torch.randint(0, K, (N,)), classify)


def term(of: Callable[[Batch], Tensor], given: Batch) -> Step:
    """Return the step of any function of a batch, such as a peer's loss."""
    at = given.leaves()
    return step(of(at), at)


def step(loss: Tensor, at: Batch, net: nn.Module | None = None, scale: float = 1.0) -> Step:
    """Return ``scale`` times a loss with its gradients."""
    weights = list(net.parameters()) if net is not None else []
    found = torch.autograd.grad(
        scale * loss, [at.source, at.target, *weights], retain_graph=True, allow_unused=True
    )
    some = [torch.zeros(1) if gradient is None else gradient for gradient in found]
    return Step(scale * loss.item(), some[:2], some[2:])


def method(cls: type[Adapter], **knobs: Any) -> Any:
    torch.manual_seed(2)
    return cls(in_features=D, num_classes=K, **knobs)


def taken(adapter: Any, given: Batch, task: bool = False, stage: str = "") -> Step:
    """Return our step of a method, with the classifier's loss where asked."""
    at = given.leaves()
    views = {
        "source": View(at.source, at.classify(at.source), labels=at.labels),
        "target": View(at.target, at.classify(at.target)),
    }
    terms = adapter(views, Context(PROGRESS, 0, lambda *_: None, at.classify, stage))
    loss = torch.stack(list(terms.values())).sum()
    if task:
        loss = loss + functional.cross_entropy(views["source"].logits, at.labels)
    return step(loss, at, getattr(adapter, "discriminator", None))


class Keeper(torch.optim.SGD):
    """An optimizer that keeps the gradients of its one step and changes nothing."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, lr=0.0)

    def step(self, closure: Any = None) -> None:
        everything = [p for group in self.param_groups for p in group["params"]]
        self.found = [torch.zeros(1) if p.grad is None else p.grad.clone() for p in everything]


def discriminator_of(adapter: Any) -> nn.Module:
    """Return pytorch-adapt's discriminator with our weights."""
    models = import_module("pytorch_adapt.models")
    ours = list(adapter.discriminator.parameters())
    net: nn.Module = models.Discriminator(in_size=ours[0].shape[1], h=WIDTH)
    with torch.no_grad():
        for to, of in zip(net.parameters(), ours, strict=True):
            to.copy_(of)
    return net


def hooked(
    adapter: Any, given: Batch, hook: Any, combine: Any = None, loss: str = "total_loss"
) -> Step:
    """Take a step with one of pytorch-adapt's hooks.

    Args:
        adapter: Ours, for the discriminator.
        given: The batch.
        hook: From optimizers' names (``opts``, or ``d_opts`` and ``g_opts``) to the hook.
        combine: Its combiner of features and probabilities.
        loss: ``d_loss`` or ``g_loss`` for one half of a step of two optimizers.
    """
    at, net = given.leaves(), discriminator_of(adapter)
    context = {
        "src_imgs_features": at.source, "target_imgs_features": at.target,
        "src_labels": at.labels, "src_domain": torch.ones(len(at.source)),
        "target_domain": torch.zeros(len(at.target)),
        "G": nn.Identity(), "C": at.classify, "D": net, "feature_combiner": combine,
    }  # fmt: skip
    leaves, weights = [at.source, at.target], list(net.parameters())
    if loss == "total_loss":
        both = Keeper([*leaves, *weights])
        _, losses = hook(opts=[both])(context)
        return Step(losses[loss]["total"], both.found[:2], both.found[2:])
    critic, features = Keeper(weights), Keeper(leaves)
    _, losses = hook(d_opts=[critic], g_opts=[features])(context)
    half = (features.found, []) if loss == "g_loss" else ([], critic.found)
    return Step(losses[loss]["total"], *half)


class Cut(nn.Module):
    """Passes values on and gradients not."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` without its graph."""
        return x.detach()


def trained(adapter: Any, given: Batch, name: str, *, constant: bool = False, **knobs: Any) -> Step:
    """Return the domain term of one of PyKale's trainers, with its own lambda where asked.

    Args:
        adapter: Ours, for the discriminator and the strength.
        given: The batch.
        name: Of the trainer.
        constant: Whether its classifier's logits are cut off from the graph.
        knobs: Of the trainer; ``ramp`` multiplies the term by its own lambda.
    """
    at, kale = given.leaves(), import_module("kale.pipeline.domain_adapter")
    ramp = knobs.pop("ramp", False)
    net = deepcopy(getattr(adapter, "discriminator", None))

    class Data:
        def prepare_data_loaders(self, **_: Any) -> None: ...

    class Two(nn.Module):  # its discriminators have two outputs, ours has one
        def forward(self, seen: Tensor) -> Tensor:
            out = net(seen)
            return torch.cat([out, torch.zeros_like(out)], 1)

    parts = [nn.Identity(), nn.Sequential(at.classify, Cut()) if constant else at.classify]
    if net is not None:
        parts.append(Two())
    trainer = getattr(kale, name)(
        Data(), *parts, nb_init_epochs=0, nb_adapt_epochs=1, lambda_init=MAX_LAMBDA, **knobs
    )
    trainer.target_label, trainer._nb_training_batches = 1, 10
    trainer._update_batch_epoch_factors(PROGRESS * 10)
    truth = torch.cat([at.labels, torch.zeros(len(at.target), dtype=torch.long)])
    domains = torch.tensor([0] * len(at.source) + [1] * len(at.target))
    _, loss, _ = trainer.compute_loss((torch.cat([at.source, at.target]), truth, domains))
    return step(loss, at, net, float(trainer.lamb_da) if ramp else 1.0)


def gap(ours: list[Tensor], theirs: list[Tensor]) -> float | None:
    """Return the largest difference of the entries, relative to the largest entry of ours."""
    if not ours:
        return None
    largest = max(x.abs().max().item() for x in ours)
    worst = max((x - y).abs().max().item() for x, y in zip(ours, theirs, strict=True))
    return worst / largest if largest else worst


def line(peer: str, row: Row) -> bool:
    """Print a row; return whether it is equal or explained."""
    a, b = row.ours, row.theirs
    gaps = [gap(a.features, b.features), gap(a.discriminator, b.discriminator)]
    # A loss near 0 is the difference of terms near 1, whose rounding it keeps.
    loss = abs(a.loss - b.loss) / max(1.0, abs(a.loss))
    equal = all(one is None or one <= LIMIT for one in [loss, *gaps])
    verdict = "equal" if equal else "differs" if row.reason else "DIFFERS, NOT EXPLAINED"
    shown = "".join(f"{'-':>10}" if one is None else f"{one:10.1e}" for one in gaps)
    print(f"{row.method:8}{peer:14}{row.setting:44}{a.loss:11.6f}{b.loss:11.6f}{shown}  {verdict}")
    if not equal and row.reason:
        print(f"        {row.reason}")
    return equal or bool(row.reason)
