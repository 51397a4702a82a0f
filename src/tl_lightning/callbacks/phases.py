"""Enter each phase of a run at its first epoch."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only

from tl_lightning.models.base import TransferModule

__all__ = ["FollowPhases"]


class FollowPhases(L.Callback):
    """Let the module enter the phase of the current epoch, and say so on the first rank.

    What a phase does is a pure function of the epoch, so nothing is stored and a resumed run needs
    no more than to enter again.
    """

    def __init__(self) -> None:
        self.said: int | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Enter; not earlier, because DDP must have seen every parameter as one that learns."""
        self._enter(trainer, pl_module)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Enter; a run resumed in mid-epoch starts no epoch."""
        self._enter(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Enter."""
        self._enter(trainer, pl_module)

    def _enter(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TransferModule)
        pl_module.enter_phase(trainer.current_epoch, trainer.optimizers[0].param_groups)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Say once what learns; a resumed run knows its epoch for sure only by now."""
        assert isinstance(pl_module, TransferModule)
        number = pl_module.phases.at(trainer.current_epoch)
        if number != self.said:
            self._say(pl_module, number)
        self.said = number

    @rank_zero_only
    def _say(self, module: TransferModule, number: int) -> None:
        learns = module.learns[number]
        groups = [group.name for group in module.backbone.layer_groups() if group.parameters]
        parts = ["head"] if "head" in learns else []
        names = [name for name in groups if name in learns]
        parts += ["backbone"] if len(names) == len(groups) else names
        sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
        some, total = sum(n for n, on in sizes if on), sum(n for n, _ in sizes)
        print(
            f"phase {number + 1} of {len(module.phases.steps)} from epoch "
            f"{module.phases.starts[number]}: {', '.join(parts)} learn{'s' * (len(parts) == 1)} "
            f"({_short(some)} of {_short(total)} parameters)",
            flush=True,
        )


def _short(count: int) -> str:
    """Return a number of parameters as people say it.

    >>> _short(950), _short(12_345), _short(11_200_000)
    ('950', '12.3 k', '11.2 M')
    """
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return str(count)
