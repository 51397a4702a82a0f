"""Is the adversary alive? Confusion is success, a dead discriminator is not."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from tl_lightning.data.samplers.domain import spread
from tl_lightning.errors import TrainingError
from tl_lightning.methods.base import Adapter
from tl_lightning.selection.domain_distance import probe_accuracy, proxy_a_distance

__all__ = ["Health"]


class Health(L.Callback):
    """Log domain accuracy, A-distance, output spread, gradient norms; warn of a dead adversary.

    The warning is given when the method pulls (lambda > 0) in ``patience`` checks on end while its
    discriminator sits at chance although a fresh probe on the same features still separates the
    domains above ``separable``, or while the discriminator's output is constant. Lambda 0 is no
    fault, and neither is a discriminator at chance on features that a probe cannot separate.

    Args:
        every_n_epochs: Epochs between two checks (each fits a small logistic regression).
        every_n_steps: Steps between two gradient norms.
        samples: Validation pictures of each domain that are looked at, spread evenly over it.
        chance: A domain accuracy closer to 0.5 than this counts as chance.
        separable: Probe accuracy above which the domains are still separable.
        constant: Standard deviation of the discriminator's probability below this is constant.
        patience: Checks on end before the warning.
        stop: Whether the warning is an error.
        seed: The run's seed, for the probe.
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
        #: The gradients' norms as last logged in this epoch.
        self.norms: dict[str, Tensor] = {}
        self.resumed = False

    def state_dict(self) -> dict[str, Any]:
        """Return the counts of bad checks."""
        norms = {name: float(norm) for name, norm in self.norms.items()}
        return {"bad": dict(self.bad), "warned": sorted(self.warned), "norms": norms}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
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
        # A resumed run logs once more what its epoch had logged last.
        self.resumed = False
        for name, norm in self.norms.items():
            pl_module.log(name, norm)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the epoch's last norms, as the log does."""
        self.norms = {}

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Decide which pictures are looked at: the first ones of a folder are of a class or two."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self.wanted = [
            torch.tensor(spread(len(data.found[role].val), self.samples)).to(pl_module.device)
            for role in data.roles
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
        """Keep the features of the pictures that are looked at."""
        if self._due(trainer):
            index = outputs["index"]
            chosen = torch.isin(index, self.wanted[dataloader_idx].to(index.device))
            names = ("index", "features", "logits")
            self.kept[dataloader_idx].append(tuple(outputs[name][chosen] for name in names))

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Probe the features of both domains and judge each method's discriminator."""
        kept, self.kept = self.kept, [[], []]
        if not self._due(trainer) or not all(kept):
            return
        both = [_of_all_ranks(parts, trainer.world_size) for parts in kept]
        source, target = both[0][0], both[1][0]
        if min(len(source), len(target)) < 20:
            return
        accuracy = probe_accuracy(source.cpu().numpy(), target.cpu().numpy(), self.seed)
        pl_module.log("health/probe_acc", accuracy)
        pl_module.log("health/a_distance", proxy_a_distance(accuracy))
        adapters: Any = getattr(pl_module, "adapters", {})
        for name, adapter in adapters.items():
            self._judge(trainer, pl_module, name, adapter, both, accuracy)

    def _due(self, trainer: L.Trainer) -> bool:
        return not trainer.sanity_checking and trainer.current_epoch % self.every_n_epochs == 0

    def _judge(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        name: str,
        adapter: Adapter,
        both: list[tuple[Tensor, ...]],
        probe: float,
    ) -> None:
        logits = [adapter.domain_logits(features, scores) for features, scores in both]
        if logits[0] is None or logits[1] is None:
            return
        source, target = logits[0].float(), logits[1].float()
        right = 0.5 * ((source > 0).float().mean() + (target <= 0).float().mean())
        accuracy, spread_value = float(right), float(torch.cat([source, target]).sigmoid().std())
        module.log(f"health/{name}_domain_acc", accuracy)
        module.log(f"health/{name}_spread", spread_value)
        pulls = adapter.strength(float(getattr(module, "progress", 0.0))) > 0
        fault = self._fault(accuracy, spread_value, probe) if pulls else ""
        self.bad[name] = self.bad.get(name, 0) + 1 if fault else 0
        if self.bad[name] >= self.patience and name not in self.warned:
            self.warned.add(name)
            message = (
                f"{name}: {fault} in {self.patience} checks on end (adapter.{name}.max_lambda)"
            )
            if self.stop:
                raise TrainingError(f"{message}; callbacks.health.stop=false goes on regardless")
            rank_zero_warn(message, category=HealthWarning)

    def _fault(self, accuracy: float, spread: float, probe: float) -> str:
        if spread < self.constant:
            return f"the discriminator's output is constant (standard deviation {spread:.1e})"
        if abs(accuracy - 0.5) < self.chance and probe > self.separable:
            return (
                f"the discriminator is at chance ({accuracy:.2f}) but a fresh probe separates the "
                f"domains ({probe:.2f}): it is dead, not confused"
            )
        return ""


def _of_all_ranks(parts: list[tuple[Tensor, ...]], world: int) -> tuple[Tensor, ...]:
    """Return features and logits in the order of the split, the same on every rank."""
    index, *rows = (torch.cat(column) for column in zip(*parts, strict=True))
    if world > 1:
        every: list[Any] = [None] * world
        torch.distributed.all_gather_object(every, [index.cpu(), *(row.cpu() for row in rows)])
        device = index.device
        index, *rows = (torch.cat(column).to(device) for column in zip(*every, strict=True))
    order = index.argsort()
    return tuple(row[order] for row in rows)


class HealthWarning(UserWarning):
    """The adversary of a method looks dead."""
