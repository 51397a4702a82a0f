"""tl_lightning with its defaults on this machine: the Trainer, precision, optimizer of ``auto``."""

from __future__ import annotations

from typing import Any

from tl_lightning.utils.deferred import import_lightning

import_lightning()  # before Lightning is imported as usual; tl-train does the same

import torch
from benchmarks.peers import nets
from benchmarks.peers.contestants.lightning_loop import Memory, Timed
from benchmarks.peers.turns import Turns
from torch import nn

from tl_lightning.config.compose import compose
from tl_lightning.config.schema import RunConfig
from tl_lightning.config.validation.check import check
from tl_lightning.training.build import build_module
from tl_lightning.training.trainer import make_trainer
from tl_lightning.utils.process import keep_memory, quiet


def dann(turns: Turns) -> None:
    half = nets.DANN["batch"]
    index = torch.arange(half)
    batches = [
        {
            "source": {"inputs": x[:half], "labels": y[:half], "index": index},
            "target": {"inputs": x[half:], "labels": y[half:], "index": index},
        }
        for x, y in nets.images(nets.DANN, domains=2)
    ]
    settings = ["model=dann", "data=mnist_mnistm", "data.root=.", "backbone=small_cnn"]
    fit(turns, settings, batches, nets.DANN["classes"], nn.ModuleList(nets.dann_parts()))


def full(turns: Turns) -> None:
    index = torch.arange(nets.FULL["batch"])
    batches = [
        {"source": {"inputs": x, "labels": y, "index": index}} for x, y in nets.images(nets.FULL)
    ]
    settings = ["model=fine_tuning", "data=dogs", "backbone=resnet18", "backbone.pretrained=false"]
    fit(turns, settings, batches, nets.FULL["classes"], nets.resnet18())


def text(turns: Turns, folder: str) -> None:
    """Train on the files themselves, as batches of similar length are a part of the speed."""
    settings = ["model=fine_tuning", "data=text_folder", f"data.root={folder}/texts",
                "data.target=null", f"data.batch_size={nets.TEXT['batch']}", "backbone=hf",
                f"backbone.name={folder}/network", f"cache.dir={folder}/cache"]  # fmt: skip
    run = checked(settings)
    data = run.data.build()
    data.discover()
    module = build_module(run, data.classes)
    data.prepare(module.needs())
    data.cache_images(run.cache, 1)  # tokenises, as the peers do before their first turn
    trainer_of(run, turns, limit_val_batches=0).fit(module, datamodule=data)


def fit(turns: Turns, settings: list[str], batches: list, classes: int, weights: Any) -> None:
    run = checked([*settings, f"optimizer.lr={nets.RATE}"])
    module = build_module(run, tuple(map(str, range(classes))))
    copy_weights(weights, module)
    loader = torch.utils.data.DataLoader(Memory(batches, turns.steps), batch_size=None)
    trainer_of(run, turns).fit(module, train_dataloaders=loader)


def checked(settings: list[str]) -> RunConfig:
    """Return the configuration of a training without an end, on the processor."""
    quiet()
    keep_memory()
    return check(compose([*settings, "trainer=cpu", "head_init=random", "scheduler=constant"]))


def trainer_of(run: RunConfig, turns: Turns, **more: Any) -> Any:
    """Return the trainer, each epoch of which is a turn."""
    return make_trainer(
        run.trainer, max_epochs=100_000, logger=False, enable_checkpointing=False,
        callbacks=[Timed(turns)], **more,
    )  # fmt: skip


def copy_weights(origin: nn.Module, module: nn.Module) -> None:
    """Copy parameters in their order, which is the same in both: backbone, head, discriminator."""
    pairs = list(zip(origin.parameters(), module.parameters(), strict=True))
    with torch.no_grad():
        for old, new in pairs:
            new.copy_(old)
