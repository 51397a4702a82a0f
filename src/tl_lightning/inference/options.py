"""Options of predictions, with their defaults."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from tl_lightning.errors import ConfigError
from tl_lightning.inference.adaptation.options import AdaptOptions

__all__ = ["Options", "device_names"]


#: Samples per batch on a GPU and on a CPU.
BATCH = (64, 16)
#: Samples per batch if the model adapts to them, on any device, as in the papers.
ADAPTING = 64


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Options:
    """How samples are predicted.

    Attributes:
        top: Number of classes per sample, the most likely first.
        precision: Fraction of the predictions that should be right, in (0, 1): less certain ones
            abstain. It is assured on source validation only. None: no sample abstains.
        embeddings: Whether to return the inputs of the classifier.
        tta: Whether to average the logits of each image and its mirror image.
        batch_size: Samples per batch; its size may change the last digits of the results. None:
            16 on a CPU, whose caches larger ones do not fit into, and 64 on a GPU or with
            ``adapt``.
        workers: Threads that read and decode; None: one per processor core.
        devices: ``all``, or names such as ``cuda:1``; ``all`` is every GPU, or the CPU.
        adapt: Adapt to the samples: the name of a method, or :class:`.AdaptOptions`, or a mapping
            with its fields; None: predict with the model as trained.
    """

    top: int = 1
    precision: float | None = None
    embeddings: bool = False
    tta: bool = False
    batch_size: int | None = None
    workers: int | None = None
    devices: str | Sequence[str] = "all"
    adapt: AdaptOptions | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "adapt", AdaptOptions.of(self.adapt))
        for name, value in (("top", self.top), ("batch_size", self.batch_size)):
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value} must be at least 1; set {name}=<number>")
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"workers={self.workers} must be at least 1; leave out workers")
        if self.precision is not None and not 0 < self.precision < 1:
            raise ConfigError(
                f"precision={self.precision:g} is not a fraction between 0 and 1; set "
                "precision=0.95"
            )
        if self.adapt is not None and (self.tta or self.precision is not None):
            name = "tta=true" if self.tta else f"precision={self.precision:g}"
            raise ConfigError(
                f"{name} cannot be combined with adapt={self.adapt.method}: it holds for the model "
                "as trained; remove one of them"
            )

    def samples(self, device: str) -> int:
        """Return the number of samples per batch on a type of device."""
        return self.batch_size or (ADAPTING if self.adapt else BATCH[device == "cpu"])

    @property
    def threads(self) -> int:
        """Number of threads that read and decode."""
        return self.workers or _cores()


def device_names(devices: str | Sequence[str]) -> list[str]:
    """Return the names of the devices, as torch has them.

    Raises:
        ConfigError: If one does not exist.
    """
    import torch

    given = [devices] if isinstance(devices, str) else list(devices)
    if given == ["all"]:
        given = [f"cuda:{number}" for number in range(torch.cuda.device_count())] or ["cpu"]
    for name in given:
        try:
            device = torch.device(name)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).partition("\n")[0]
            raise ConfigError(
                f"devices={name} is not available: {reason}; set devices=all, cpu or cuda:0"
            ) from error
    if not given:
        raise ConfigError("devices=[] names no device; set devices=all")
    return given
