"""PyKale: its DANNTrainer with pytorch_lightning's Trainer; both domains in one pass."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as lightning
import torch
from benchmarks.peers import nets
from benchmarks.peers.turns import EpochTurns, Turns
from kale.pipeline.domain_adapter import DANNTrainer
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Memory(Dataset):
    def __init__(self, steps: int) -> None:
        half = nets.DANN["batch"]
        self.domains = torch.cat([torch.zeros(half), torch.ones(half)]).long()
        self.batches, self.steps = nets.images(nets.DANN, domains=2), steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Any:
        inputs, labels = self.batches[step % len(self.batches)]
        return nets.normal(inputs), labels, self.domains


class Domains:
    """What its trainer asks of a data set."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def prepare_data_loaders(self, **_: Any) -> None: ...

    def get_domain_loaders(self, **_: Any) -> DataLoader:
        return DataLoader(Memory(self.steps), batch_size=None)


class Timed(EpochTurns, lightning.Callback): ...


def dann(turns: Turns) -> None:
    features, classify, critic = nets.dann_parts()
    critic[-1] = nn.Linear(nets.WIDTH, 2)  # its loss is a cross-entropy over two outputs
    module = DANNTrainer(
        Domains(turns.steps), features, classify, critic, lambda_init=nets.LAMBDA,
        nb_init_epochs=0, nb_adapt_epochs=10_000, batch_size=nets.DANN["batch"],
        init_lr=nets.RATE,
    )  # fmt: skip
    module.target_label = 1  # set from the names of the domains otherwise
    trainer = lightning.Trainer(
        max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[Timed(turns)],
        limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(module)
