"""Monitoring of adversarial methods: tells a confused discriminator from a dead one."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from tl_lightning.distributed.ranks import gathered
from tl_lightning.errors import TrainingError
from tl_lightning.methods.base import Method
from tl_lightning.selection.domain_distance import probe_accuracy, proxy_a_distance
from tl_lightning.types import Context
from tl_lightning.utils.spread import spread

__all__ = ["AdversaryMonitor"]


class AdversaryMonitor(L.Callback):
    """Log domain accuracy, A-distance, output spread and gradient norms; warn of a dead adversary.

    Warns when, in ``patience`` consecutive checks with lambda > 0, the discriminator is at chance
    although a fresh probe on the same features separates the domains with an accuracy above
    ``separable``, or the discriminator's output is constant. A discriminator is not reported while
    lambda is 0, nor if it is at chance on features that a probe cannot separate either.

    Args:
        every_n_epochs: Epochs between two checks (each fits a small logistic regression).
        every_n_steps: Steps between two logged gradient norms.
        samples: Validation samples per domain used for the check, spread evenly over the split.
        chance: A domain accuracy closer to 0.5 than this counts as chance.
        separable: Probe accuracy above which the domains count as separable.
        constant: An output with a standard deviation below this counts as constant.
        patience: Consecutive failed checks before the warning.
        stop: Raise an error instead of warning.
        seed: Seed of the probe.
    """

    def __init__(
        self,
        *,
        every_n_epochs: int,
        every_n_steps: int,
        samples: int,
        chance: float,
        separable: float,
        constant: float,
        patience: int,
        stop: bool,
        seed: int,
    ) -> None:
        self.every_n_epochs = every_n_epochs
        self.every_n_steps = every_n_steps
        self.samples = samples
        self.chance = chance
        self.separable = separable
        self.constant = constant
        self.patience = patience
        self.stop = stop
        self.seed = seed
        self.bad: dict[str, int] = {}
        self.warned: set[str] = set()
        self.kept: list[list[tuple[Tensor, ...]]] = [[], []]
        self.wanted: list[Tensor] = []
        #: Gradient norms last logged in this epoch.
        self.norms: dict[str, Tensor] = {}
        self.resumed = False

    def state_dict(self) -> dict[str, Any]:
        """Return the counts of failed checks and the last logged norms."""
        norms = {name: float(norm) for name, norm in self.norms.items()}
        return {"bad": dict(self.bad), "warned": sorted(self.warned), "norms": norms}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counts and norms."""
        self.bad = dict(state_dict["bad"])
        self.warned = set(state_dict["warned"])
        self.norms = {k: torch.tensor(v) for k, v in state_dict.get("norms", {}).items()}
        self.resumed = True

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any
    ) -> None:
        """Log the norm of each parameter group's gradient."""
        if trainer.global_step % self.every_n_steps == 0:
            self.norms = {}
            for group in optimizer.param_groups:
                norms = [p.grad.detach().norm() for p in group["params"] if p.grad is not None]
                if norms:
                    self.norms[f"health/grad_{group['name']}"] = torch.stack(norms).norm()
        elif not self.resumed:
            return
        # After resuming in the middle of an epoch, its last norms have to be logged again.
        self.resumed = False
        for name, norm in self.norms.items():
            pl_module.log(name, norm)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Discard the norms, as the logger does at the end of an epoch."""
        self.norms = {}

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose samples spread evenly over the split: the first ones may be of one class."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self.wanted = [
            torch.tensor(spread(len(data.found[domain].val), self.samples)).to(pl_module.device)
            for domain in data.validated
        ]

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect the features of the chosen samples."""
        if self._due(trainer):
            index = outputs["index"]
            chosen = torch.isin(index, self.wanted[dataloader_idx].to(index.device))
            names = ("index", "features", "logits")
            self.kept[dataloader_idx].append(tuple(outputs[name][chosen] for name in names))

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Probe the features of both domains and check the discriminator of each method."""
        kept, self.kept = self.kept, [[], []]
        if not self._due(trainer) or not all(kept):
            return
        both = [_gathered(parts, trainer.world_size) for parts in kept]
        source, target = both[0][0], both[1][0]
        if min(len(source), len(target)) < 20:
            return
        accuracy = probe_accuracy(source.cpu().numpy(), target.cpu().numpy(), self.seed)
        pl_module.log("health/probe_acc", accuracy)
        pl_module.log("health/a_distance", proxy_a_distance(accuracy))
        methods: Any = getattr(pl_module, "methods", {})
        for name, method in methods.items():
            self._check(pl_module, name, method, both, accuracy)

    def _due(self, trainer: L.Trainer) -> bool:
        return not trainer.sanity_checking and trainer.current_epoch % self.every_n_epochs == 0

    def _check(
        self,
        module: L.LightningModule,
        name: str,
        method: Method,
        both: list[tuple[Tensor, ...]],
        probe: float,
    ) -> None:
        logits = [method.domain_logits(features, scores) for features, scores in both]
        if logits[0] is None or logits[1] is None:
            return
        source, target = logits[0].float(), logits[1].float()
        correct = 0.5 * ((source > 0).float().mean() + (target <= 0).float().mean())
        accuracy, spread_value = float(correct), float(torch.cat([source, target]).sigmoid().std())
        module.log(f"health/{name}_domain_acc", accuracy)
        module.log(f"health/{name}_spread", spread_value)
        now = Context(getattr(module, "progress", 0.0), getattr(module, "batches", 0))
        active = method.strength(now) > 0
        problem = self._problem(accuracy, spread_value, probe) if active else ""
        self.bad[name] = self.bad.get(name, 0) + 1 if problem else 0
        if self.bad[name] >= self.patience and name not in self.warned:
            self.warned.add(name)
            message = (
                f"{name}: {problem} in {self.patience} consecutive check(s); adjust "
                f"method.{name}.max_lambda"
            )
            if self.stop:
                raise TrainingError(
                    f"{message}, or set callbacks.adversary_monitor.stop=false to warn only"
                )
            rank_zero_warn(message, category=AdversaryWarning)

    def _problem(self, accuracy: float, spread: float, probe: float) -> str:
        if spread < self.constant:
            return f"the discriminator's output is constant (standard deviation {spread:.1e})"
        if abs(accuracy - 0.5) < self.chance and probe > self.separable:
            return (
                f"the discriminator is at chance ({accuracy:.2f}) but a fresh probe separates the "
                f"domains ({probe:.2f}): it is dead, not confused"
            )
        return ""


def _gathered(parts: list[tuple[Tensor, ...]], world: int) -> tuple[Tensor, ...]:
    """Return features and logits of all ranks in the order of the split."""
    index, *rows = (torch.cat(column) for column in zip(*parts, strict=True))
    if world > 1:
        every = gathered([index.cpu(), *(row.cpu() for row in rows)])
        device = index.device
        index, *rows = (torch.cat(column).to(device) for column in zip(*every, strict=True))
    order = index.argsort()
    return tuple(row[order] for row in rows)


class AdversaryWarning(UserWarning):
    """The discriminator of a method appears to be dead."""
