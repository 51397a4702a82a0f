"""Training phases: freezing and unfreezing of layer groups by epoch."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only

from tl_lightning.models.base import TransferModule
from tl_lightning.models.optimization import layer_groups_of

__all__ = ["PhaseCallback"]


class PhaseCallback(L.Callback):
    """Enter the phase of the current epoch and print it on rank 0.

    A phase is a pure function of the epoch, so nothing is stored: a resumed run enters it again.
    """

    def __init__(self) -> None:
        self.printed: int | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Enter the phase; not earlier, since DDP must see every parameter as trainable first."""
        self._enter(trainer, pl_module)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Enter the phase of a run resumed in the middle of an epoch, which has no epoch start."""
        self._enter(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Enter the phase of this epoch."""
        self._enter(trainer, pl_module)

    def _enter(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TransferModule)
        pl_module.enter_phase(trainer.current_epoch, trainer.optimizers[0].param_groups)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Print the trainable groups once per phase; a resumed run knows its epoch only by now."""
        assert isinstance(pl_module, TransferModule)
        number = pl_module.phases.at(trainer.current_epoch)
        if number != self.printed:
            self._print(pl_module, number)
        self.printed = number

    @rank_zero_only
    def _print(self, module: TransferModule, number: int) -> None:
        trained = module.groups.trained[number]
        groups = [g.name for g in layer_groups_of(module.backbone) if g.parameters]
        parts = ["head"] if "head" in trained else []
        names = [name for name in groups if name in trained]
        parts += ["backbone"] if len(names) == len(groups) else names
        sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
        trainable, total = sum(n for n, on in sizes if on), sum(n for n, _ in sizes)
        print(
            f"phase {number + 1} of {len(module.phases.steps)} from epoch "
            f"{module.phases.starts[number]}: training {', '.join(parts)} "
            f"({_short(trainable)} of {_short(total)} parameters)",
            flush=True,
        )


def _short(count: int) -> str:
    """Format a parameter count for humans.

    >>> _short(950), _short(12_345), _short(11_200_000)
    ('950', '12.3 k', '11.2 M')
    """
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return str(count)
