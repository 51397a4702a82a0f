"""Measurement of both domains by the layers of a model, on the device of the run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from tl_lightning.config.schema import RunConfig
from tl_lightning.data.cache.features import split_digest
from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.distributed.ranks import same_buffers
from tl_lightning.models.adaptation import DomainAdaptation
from tl_lightning.training.feature_extraction import Batches
from tl_lightning.training.feature_plan import numerics_of, weights_digest
from tl_lightning.utils.files import locked, write_bytes

__all__ = ["measure"]

#: Increase when the same settings yield different statistics, to invalidate older ones.
FORMAT = 1


def measure(
    module: DomainAdaptation, data: TransferDataModule, trainer: L.Trainer, run: RunConfig
) -> None:
    """Let the model measure the domains with the run's own trainer, or read stored statistics.

    Args:
        module: A model with unmeasured layers.
        data: The data module, prepared for it.
        trainer: The trainer of the run.
        run: The configuration.
    """
    file = run.cache.root / "statistics" / f"{_digest(module, data, run)}.safetensors"
    with torch.random.fork_rng():
        trainer.predict(Measurement(module, data, file), return_predictions=False)


def _digest(module: DomainAdaptation, data: TransferDataModule, run: RunConfig) -> str:
    """Return a hash of everything that the statistics depend on."""
    layers = {(one.strength, one.samples) for one in module.relative_norms().values()}
    depends = [
        FORMAT, sorted(layers), weights_digest(module, (), "source"),
        asdict(module.backbone.input_spec),
        numerics_of(run), module.layout == torch.channels_last,
        {name: split_digest(data.found[name].train) for name in data.domain_names},
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(depends, sort_keys=True, default=str).encode()).hexdigest()


class Measurement(L.LightningModule):
    """Measures on rank 0, and gives its result to the other ranks.

    Args:
        module: The model.
        data: The data module.
        file: Where the result is stored.
    """

    def __init__(self, module: DomainAdaptation, data: TransferDataModule, file: Path) -> None:
        super().__init__()
        self.module = module
        self.data = data
        self.file = file

    def predict_dataloader(self) -> Batches:
        """Return a single step."""
        return Batches([torch.zeros(1)])

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Measure; one step, so that device and precision are those of the run."""
        if self.trainer.is_global_zero and not self._read():
            with locked(self.file):
                if not self._read():
                    self.module.measure(self.data)
                    write_bytes(self.file, save(self._state()))
        same_buffers(self.module)
        self.module.mark_measured()
        return torch.tensor(1)

    def _state(self) -> dict[str, Tensor]:
        """Return the moved mean and variance of every layer."""
        return {
            f"{name}.{key}": getattr(norm.target, f"running_{key}").contiguous()
            for name, norm in self.module.relative_norms().items()
            for key in ("mean", "var")
        }

    def _read(self) -> bool:
        """Read stored statistics; return whether there are any."""
        try:
            found = load_file(self.file)
        except (OSError, SafetensorError):
            return False
        if found.keys() != self._state().keys():
            return False
        for name, norm in self.module.relative_norms().items():
            for key in ("mean", "var"):
                getattr(norm.target, f"running_{key}").copy_(found[f"{name}.{key}"])
        return True
