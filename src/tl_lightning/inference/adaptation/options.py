"""Options of test-time adaptation, with their defaults."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, get_args

from tl_lightning.errors import ConfigError, nearest

__all__ = ["AdaptMethod", "AdaptMode", "AdaptOptions"]

AdaptMethod = Literal["bn", "tent", "eata", "sar"]
AdaptMode = Literal["online", "episodic"]
#: Learning rate of tent, eata and sar, for batches of at least this many samples, and in proportion
#: for smaller ones (the authors' code of EATA and SAR for ResNet-50 on ImageNet).
LR, LR_BATCH = 2.5e-4, 32
#: Types of the options, in words, and what to do about another one.
TYPES: tuple[tuple[str, type, str, str], ...] = (
    ("method", str, "the name of a method", "set adapt=tent"),
    ("mode", str, "online or episodic", "leave out adapt.mode"),
    ("reset_every", Integral, "an integer", "set adapt.reset_every=1000"),
    ("prior", Real, "a finite number", "set adapt.prior=16"),
    ("lr", Real, "a finite number", "leave out adapt.lr"),
    ("steps", Integral, "an integer", "set adapt.steps=1"),
    ("guard", bool, "true or false", "set adapt.guard=true"),
    ("column", str, "the name of a column", "leave out adapt.column"),
)


@dataclass(frozen=True)
class AdaptOptions:
    """How a model adapts to the samples that it predicts.

    Attributes:
        method: ``bn``: the statistics of batch norm (Schneider et al. 2020); ``tent``: also scales
            and shifts of normalisation layers, by the entropy (Wang et al. 2021); ``eata``: by that
            of reliable samples that differ from earlier ones, with a regulariser (Niu et al. 2022);
            ``sar``: by that of reliable samples, at a flat minimum (Niu et al. 2023).
        mode: ``online``: every batch continues from the one before; ``episodic``: every batch
            starts from the trained model, and is predicted after the step on it.
        reset_every: Number of samples after which the model is the trained one again; None: never.
        prior: Number of samples that the trained statistics of batch norm count as, beside those of
            the batch; 0: the batch alone, as in the papers of tent, eata and sar.
        lr: Learning rate of SGD with momentum 0.9; None: 2.5e-4, less for batches below 32 samples.
        steps: Number of steps on each batch.
        guard: Whether to return to the trained model when the adapted one has collapsed.
        fisher: For ``eata``: unlabelled samples of the source, which the Fisher information of the
            regulariser is computed on, as in ``input=`` or as inputs of ``tl.predict``; ``none``:
            no regulariser (called ETA in the paper).
        column: Column of the paths or texts, if ``fisher`` is a table; None: found by its name.
    """

    method: AdaptMethod
    mode: AdaptMode = "online"
    reset_every: int | None = None
    prior: float = 16.0
    lr: float | None = None
    steps: int = 1
    guard: bool = True
    fisher: Any = None
    column: str | None = None

    def __post_init__(self) -> None:
        if problems := list(self._type_problems()) or self._problems():
            raise ConfigError(problems)

    def _type_problems(self) -> Iterator[str]:
        for key, kind, words, other in TYPES:
            value = getattr(self, key)
            if value is None and key in ("reset_every", "lr", "column"):
                continue
            right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
            if not right or (kind is Real and not math.isfinite(value)):
                name = "adapt" if key == "method" else f"adapt.{key}"
                yield f"{name}={value!r} must be {words}; {other}"

    def _problems(self) -> list[str]:
        found = []
        for key, value, allowed in (
            ("adapt", self.method, get_args(AdaptMethod)),
            ("adapt.mode", self.mode, get_args(AdaptMode)),
        ):
            if value not in allowed:
                found.append(f"{key}={value} is not valid; {nearest(str(value), allowed)}")
        for key, number in (("reset_every", self.reset_every), ("steps", self.steps)):
            if number is not None and number < 1:
                found.append(f"adapt.{key}={number} must be at least 1; leave out adapt.{key}")
        if not self.prior >= 0:
            found.append(f"adapt.prior={self.prior:g} must be at least 0; set adapt.prior=16")
        if self.lr is not None and not self.lr > 0:
            found.append(f"adapt.lr={self.lr:g} must be positive; leave out adapt.lr")
        if self.mode == "episodic" and self.reset_every is not None:
            found.append(
                "adapt.reset_every has no effect with adapt.mode=episodic, where every batch "
                "starts from the trained model; remove one of them"
            )
        return found + self._method_problems()

    def _method_problems(self) -> list[str]:
        found = []
        if self.method == "bn":
            given = (("lr", self.lr is not None), ("steps", self.steps != 1))
            found += [
                f"adapt.{key} has no effect with adapt=bn, which takes no steps; remove it"
                for key, set_ in given
                if set_
            ]
        if self.method == "eata" and self.fisher is None:
            found.append(
                "adapt=eata keeps the model near the trained one by samples of the source; set "
                "adapt.fisher=<folder of images of the source, without labels>, or "
                "adapt.fisher=none to adapt without this regulariser"
            )
        if self.column is not None and (
            not isinstance(self.fisher, str | Path) or _is_none(self.fisher)
        ):
            found.append("adapt.column has no effect without a table in adapt.fisher; remove it")
        if self.method != "eata" and self.fisher is not None:
            found.append(f"adapt.fisher has no effect with adapt={self.method}; remove it")
        return found

    @classmethod
    def of(cls, given: AdaptOptions | Mapping[str, Any] | str | None) -> AdaptOptions | None:
        """Return the options for the name of a method or a mapping with ``method``.

        Raises:
            ConfigError: For unknown options, or values that are not valid.
        """
        if given is None or isinstance(given, AdaptOptions):
            return given
        if not isinstance(given, str | Mapping):
            raise ConfigError(
                f"adapt={given!r} must be the name of a method, a mapping with it, or "
                'AdaptOptions; pass adapt="tent", or leave out adapt'
            )
        values = {"method": given} if isinstance(given, str) else dict(given)
        known = [one.name for one in fields(cls)]
        for name in values:
            if name not in known:
                raise ConfigError(f"adapt.{name} is not an option; {nearest(str(name), known)}")
        if "method" not in values:
            raise ConfigError('adapt has no method; pass adapt={"method": "tent", ...}')
        return cls(**values)

    def learning_rate(self, batch_size: int) -> float:
        """Return the learning rate for batches of a size."""
        return LR * min(1.0, batch_size / LR_BATCH) if self.lr is None else self.lr

    def named(self, source: str) -> dict[str, Any]:
        """Return the options as plain values.

        Args:
            source: Hash of the samples of the source, in place of the samples.
        """
        return {**{one.name: getattr(self, one.name) for one in fields(self)}, "fisher": source}

    @property
    def regularised(self) -> bool:
        """Whether the Fisher information has to be computed."""
        return self.method == "eata" and not _is_none(self.fisher)


def _is_none(fisher: Any) -> bool:
    return isinstance(fisher, str) and fisher.lower() == "none"
