"""Single steps with tl_lightning, pytorch-adapt and PyKale, compared by `peer_losses.py`."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tl_lightning.methods.base import Method
from tl_lightning.types import Context, View

# A prime number of samples, so that N (N - 1) permutations of a batch form every pair once.
N, OTHER, D, K, WIDTH, RANDOM = 17, 9, 12, 5, 32, 40
PROGRESS, MAX_LAMBDA, MULTIPLIERS = 0.2, 0.3, (0.25, 0.5, 1.0, 2.0, 4.0)
LIMIT = 1e-5
PENALTY = {"weight": 1.0, "ramp": "none", "gather": False}
CRITIC = {"width": WIDTH, "depth": 2, "activation": "relu"}
ADVERSARY = {
    **CRITIC, "max_lambda": MAX_LAMBDA, "gain": 10.0, "ramp_steps": None, "dropout": 0.0,
    "norm": "none",
}  # fmt: skip


@dataclass
class Batch:
    """Features of both domains as leaf tensors, source labels, and the shared classifier."""

    source: Tensor
    target: Tensor
    labels: Tensor
    classify: nn.Linear

    def leaves(self) -> Batch:
        """Return a copy with separate gradients."""
        parts = [part.detach().clone().requires_grad_() for part in (self.source, self.target)]
        return Batch(*parts, self.labels, deepcopy(self.classify))


@dataclass
class Step:
    """A loss and its gradients with respect to the features and the discriminator."""

    loss: float
    features: list[Tensor]
    discriminator: list[Tensor]


@dataclass
class Row:
    """A comparison; ``reason`` explains an expected difference."""

    method: str
    setting: str
    own: Step
    peer: Step
    reason: str = ""


def batch(m: int = N) -> Batch:
    torch.manual_seed(1)
    classify = nn.Linear(D, K)
    nn.init.normal_(classify.weight, std=0.5)
    return Batch(torch.randn(N, D), torch.randn(m, D) + 0.5, torch.randint(0, K, (N,)), classify)


def term(loss: Callable[[Batch], Tensor], given: Batch) -> Step:
    """Return the step of any function of a batch, such as the loss of a peer."""
    at = given.leaves()
    return step(loss(at), at)


def step(loss: Tensor, at: Batch, net: nn.Module | None = None, scale: float = 1.0) -> Step:
    """Return a loss and its gradients, multiplied by ``scale``."""
    weights = list(net.parameters()) if net is not None else []
    gradients = torch.autograd.grad(
        scale * loss, [at.source, at.target, *weights], retain_graph=True, allow_unused=True
    )
    gradients = [torch.zeros(1) if gradient is None else gradient for gradient in gradients]
    return Step(scale * loss.item(), gradients[:2], gradients[2:])


def method(cls: type[Method], **params: Any) -> Any:
    torch.manual_seed(2)
    return cls(in_features=D, num_classes=K, **params)


def own_step(method: Any, given: Batch, task: bool = False, stage: str = "") -> Step:
    """Return a step of a tl_lightning method, optionally with the classification loss."""
    at = given.leaves()
    views = {
        "source": View(at.source, at.classify(at.source), labels=at.labels),
        "target": View(at.target, at.classify(at.target)),
    }
    terms = method(views, Context(PROGRESS, 0, lambda *_: None, at.classify, stage))
    loss = torch.stack(list(terms.values())).sum()
    if task:
        loss = loss + functional.cross_entropy(views["source"].logits, at.labels)
    return step(loss, at, getattr(method, "discriminator", None))


class GradientRecorder(torch.optim.SGD):
    """An optimizer that stores the gradients of its only step and changes no parameter."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, lr=0.0)

    def step(self, closure: Any = None) -> None:
        parameters = [p for group in self.param_groups for p in group["params"]]
        self.grads = [torch.zeros(1) if p.grad is None else p.grad.clone() for p in parameters]


def discriminator_of(method: Any) -> nn.Module:
    """Return pytorch-adapt's discriminator with the weights of the method's discriminator."""
    models = import_module("pytorch_adapt.models")
    weights = list(method.discriminator.parameters())
    net: nn.Module = models.Discriminator(in_size=weights[0].shape[1], h=WIDTH)
    with torch.no_grad():
        for parameter, weight in zip(net.parameters(), weights, strict=True):
            parameter.copy_(weight)
    return net


def hooked(
    method: Any, given: Batch, hook: Any, combine: Any = None, loss: str = "total_loss"
) -> Step:
    """Return a step with one of pytorch-adapt's hooks.

    Args:
        method: The tl_lightning method, for the discriminator.
        given: The batch.
        hook: Function from optimizers (``opts``, or ``d_opts`` and ``g_opts``) to the hook.
        combine: Function that combines features and probabilities.
        loss: ``d_loss`` or ``g_loss`` for one half of a step with two optimizers.
    """
    at, net = given.leaves(), discriminator_of(method)
    context = {
        "src_imgs_features": at.source, "target_imgs_features": at.target,
        "src_labels": at.labels, "src_domain": torch.ones(len(at.source)),
        "target_domain": torch.zeros(len(at.target)),
        "G": nn.Identity(), "C": at.classify, "D": net, "feature_combiner": combine,
    }  # fmt: skip
    leaves, weights = [at.source, at.target], list(net.parameters())
    if loss == "total_loss":
        both = GradientRecorder([*leaves, *weights])
        _, losses = hook(opts=[both])(context)
        return Step(losses[loss]["total"], both.grads[:2], both.grads[2:])
    critic, features = GradientRecorder(weights), GradientRecorder(leaves)
    _, losses = hook(d_opts=[critic], g_opts=[features])(context)
    half = (features.grads, []) if loss == "g_loss" else ([], critic.grads)
    return Step(losses[loss]["total"], *half)


class Detach(nn.Module):
    """Identity that stops the gradient."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` detached from the graph."""
        return x.detach()


def trained(method: Any, given: Batch, name: str, *, constant: bool = False, **params: Any) -> Step:
    """Return the domain loss of one of PyKale's trainers, optionally with its own lambda.

    Args:
        method: The tl_lightning method, for the discriminator and the strength.
        given: The batch.
        name: Class name of the trainer.
        constant: Whether to detach the logits of the classifier.
        params: Arguments of the trainer; ``ramp=True`` multiplies the loss by its own lambda.
    """
    at, kale = given.leaves(), import_module("kale.pipeline.domain_adapter")
    ramp = params.pop("ramp", False)
    net = deepcopy(getattr(method, "discriminator", None))

    class Data:
        def prepare_data_loaders(self, **_: Any) -> None: ...

    class TwoOutputs(nn.Module):  # PyKale expects two outputs, the discriminator has one
        def forward(self, x: Tensor) -> Tensor:
            out = net(x)
            return torch.cat([out, torch.zeros_like(out)], 1)

    parts = [nn.Identity(), nn.Sequential(at.classify, Detach()) if constant else at.classify]
    if net is not None:
        parts.append(TwoOutputs())
    trainer = getattr(kale, name)(
        Data(), *parts, nb_init_epochs=0, nb_adapt_epochs=1, lambda_init=MAX_LAMBDA, **params
    )
    trainer.target_label, trainer._nb_training_batches = 1, 10
    trainer._update_batch_epoch_factors(PROGRESS * 10)
    labels = torch.cat([at.labels, torch.zeros(len(at.target), dtype=torch.long)])
    domains = torch.tensor([0] * len(at.source) + [1] * len(at.target))
    _, loss, _ = trainer.compute_loss((torch.cat([at.source, at.target]), labels, domains))
    return step(loss, at, net, float(trainer.lamb_da) if ramp else 1.0)


def gap(own: list[Tensor], peer: list[Tensor]) -> float | None:
    """Return the largest absolute difference, relative to the largest absolute entry of ``own``."""
    if not own:
        return None
    largest = max(x.abs().max().item() for x in own)
    difference = max((x - y).abs().max().item() for x, y in zip(own, peer, strict=True))
    return difference / largest if largest else difference


def line(peer: str, row: Row) -> bool:
    """Print a row and return whether both sides are equal or the difference is explained."""
    a, b = row.own, row.peer
    gaps = [gap(a.features, b.features), gap(a.discriminator, b.discriminator)]
    # A loss near 0 is a difference of terms near 1, with their absolute rounding error.
    loss = abs(a.loss - b.loss) / max(1.0, abs(a.loss))
    equal = all(value is None or value <= LIMIT for value in [loss, *gaps])
    verdict = "equal" if equal else "differs" if row.reason else "DIFFERS, NOT EXPLAINED"
    shown = "".join(f"{'-':>10}" if value is None else f"{value:10.1e}" for value in gaps)
    print(f"{row.method:8}{peer:14}{row.setting:44}{a.loss:11.6f}{b.loss:11.6f}{shown}  {verdict}")
    if not equal and row.reason:
        print(f"        {row.reason}")
    return equal or bool(row.reason)
