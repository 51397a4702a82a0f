"""Says when a step and an epoch of tl_lightning have ended, as the other programs do."""

from __future__ import annotations

from typing import Any

import lightning


class Shown(lightning.Callback):
    def on_train_batch_end(self, *_: Any) -> None:
        print("step", flush=True)

    def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
        print("epoch", trainer.current_epoch, flush=True)
