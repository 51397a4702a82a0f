"""A LightningModule as users write it, and the Trainer with its defaults."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from benchmarks.peers import nets
from benchmarks.peers.turns import EpochTurns, Turns
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Memory(Dataset):
    """Batches in memory, ``steps`` of them in an epoch."""

    def __init__(self, batches: list, steps: int) -> None:
        self.batches, self.steps = batches, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Any:
        return self.batches[step % len(self.batches)]


class Timed(EpochTurns, lightning.Callback): ...


class Dann(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nets.dann_parts())

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        loss = nets.dann_loss(tuple(self.parts), *batch)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=nets.RATE)


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nets.resnet18()

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        inputs, labels = batch
        loss = nn.functional.cross_entropy(self.net(nets.normal(inputs)), labels)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=nets.RATE)


def fit(turns: Turns, module: lightning.LightningModule, batches: list) -> None:
    trainer = lightning.Trainer(
        max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[Timed(turns)],
    )  # fmt: skip
    trainer.fit(module, DataLoader(Memory(batches, turns.steps), batch_size=None))


def dann(turns: Turns) -> None:
    fit(turns, Dann(), nets.images(nets.DANN, domains=2))


def full(turns: Turns) -> None:
    fit(turns, Classifier(), nets.images(nets.FULL))
