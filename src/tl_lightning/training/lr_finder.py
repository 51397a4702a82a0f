"""Learning rate range test before training.

Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017: the learning rate grows
from step to step, and the loss falls fastest somewhat below the rate at which it diverges. The test
trains its own copy of the model, which is discarded: training afterwards equals, bit for bit, a run
with that learning rate in its configuration.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.utilities.seed import isolate_rng

from tl_lightning.checkpoints.io import read_model
from tl_lightning.config.schema import RunConfig
from tl_lightning.errors import TrainingError
from tl_lightning.training.build import build
from tl_lightning.training.feature_extraction import fill
from tl_lightning.training.head_start import prepare_start
from tl_lightning.training.trainer import make_trainer
from tl_lightning.utils.files import write_json

__all__ = ["RangeTest", "suggestion", "with_found_rate"]

STEPS, LOWEST, HIGHEST = 100, 1e-7, 10.0
#: The test stops when the smoothed loss exceeds this multiple of its minimum so far.
BROKEN = 4.0
_SMOOTHING, _SKIPPED = 0.9, 10


def with_found_rate(run: RunConfig, run_dir: Path, resumed: str | None = None) -> RunConfig:
    """Return the configuration with the suggested ``optimizer.lr`` if ``lr_find`` is true.

    The result is written to ``lr_find.json`` in the run's folder. A resumed run uses the learning
    rate that its checkpoint was trained with.

    Args:
        run: A checked configuration.
        run_dir: The run's folder.
        resumed: The checkpoint that the run resumes from, if any.

    Raises:
        TrainingError: If the loss never falls.
    """
    if not run.lr_find:
        return run
    if resumed is not None:
        optimizer = read_model(Path(resumed)).section("optimizer")
        return run.changed("optimizer.lr", float(optimizer["lr"]))
    with isolate_rng():
        found = _tested(run, run_dir)
    write_json(run_dir / "lr_find.json", found)
    print(f"optimizer.lr={found['lr']:.3g} found by lr_find")
    return run.changed("optimizer.lr", float(found["lr"]))


def _tested(run: RunConfig, run_dir: Path) -> dict[str, Any]:
    parts = build(run, run_dir)
    prepare_start(parts)
    fill(parts.features, parts.module, parts.data, parts.trainer)
    test = RangeTest(run.lr)
    # The callback ends the test. With max_steps, everything scheduled by the progress of the run
    # would go through its whole schedule in these few steps.
    limits = {"max_epochs": 1000, "max_steps": -1, "limit_val_batches": 0}
    trainer = make_trainer(
        run.trainer, run_dir, callbacks=[test], logger=False, enable_checkpointing=False, **limits
    )
    trainer.fit(parts.module, datamodule=parts.data)
    return {
        "lr": suggestion(test.rates, test.losses),
        "rates": test.rates,
        "losses": test.losses,
        "rule": "steepest fall of the smoothed loss, at most a tenth of the rate at its minimum",
    }


class RangeTest(L.Callback):
    """Increase the learning rate exponentially, and stop when the loss diverges.

    Each loss is attributed to the learning rate of the optimizer step that follows it. The tested
    rate is that of new layers; the ratios between parameter groups are kept.

    Args:
        lr: The configured learning rate, which the rates of the groups are relative to.
    """

    def __init__(self, lr: float) -> None:
        self.lr = lr
        self.rates: list[float] = []
        self.losses: list[float] = []
        self.waiting: list[float] = []
        self.average, self.least = 0.0, math.inf

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Enter the first phase, which lasts for the whole test."""
        module: Any = pl_module
        if module.phases.steps:
            module.enter_phase(0, trainer.optimizers[0].param_groups)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Average the losses of an optimizer step, and stop the test when they diverge."""
        self.waiting.append(float(outputs["loss"]))
        if trainer.global_step <= len(self.losses):  # gradients are still being accumulated
            return
        loss = sum(self.waiting) / len(self.waiting)
        self.waiting = []
        self.average = _SMOOTHING * self.average + (1 - _SMOOTHING) * loss
        smooth = self.average / (1 - _SMOOTHING ** (len(self.losses) + 1))
        self.losses.append(smooth)
        self.least = min(self.least, smooth)
        diverged = not math.isfinite(smooth) or smooth > BROKEN * self.least
        trainer.should_stop = diverged or len(self.losses) == STEPS

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any
    ) -> None:
        """Set the learning rate of the step."""
        fraction = len(self.rates) / (STEPS - 1)
        self.rates.append(LOWEST * (HIGHEST / LOWEST) ** fraction)
        for group in optimizer.param_groups:
            group["lr"] = self.rates[-1] * group["initial_lr"] / self.lr


def suggestion(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Return the learning rate at which the loss falls fastest over the log learning rate.

    The result is at most a tenth of the rate with the minimum loss: just below the point of
    divergence, a network may learn briefly and then diverge. The first steps are ignored, as their
    running mean covers only a few losses, and so are the steps after the minimum.

    Args:
        rates: Increasing learning rates, ``(N,)``.
        losses: Smoothed losses, ``(N,)``.

    Raises:
        TrainingError: If the loss never falls.

    >>> rates = [10.0 ** (k / 10 - 5) for k in range(50)]
    >>> losses = [2.0 - 1.5 / (1 + 10 ** (4 * (-2.5 - (k / 10 - 5)))) for k in range(50)]
    >>> round(suggestion(rates, losses), 4)
    0.0032
    """
    count = min(len(rates), len(losses))
    x, y = np.log(np.asarray(rates[:count])), np.asarray(losses[:count])
    keep = np.isfinite(y)
    x, y = x[keep], y[keep]
    last = int(np.argmin(y)) + 1 if len(y) else 0
    x, y = x[:last], y[:last]
    slopes = np.gradient(y, x) if len(y) > _SKIPPED + 1 else np.zeros(0)
    if not len(slopes) or slopes[_SKIPPED:].min() >= 0:
        raise TrainingError(
            f"lr_find: the loss did not fall at any learning rate between {LOWEST:g} and "
            f"{HIGHEST:g}; set lr_find=false and optimizer.lr=<learning rate>"
        )
    steepest = x[_SKIPPED + int(np.argmin(slopes[_SKIPPED:]))]
    return float(min(np.exp(steepest), np.exp(x[-1]) / 10))
