"""Transfer learning and domain adaptation with Lightning and Hydra.

The names below are imported when they are first used, so that ``import tl_lightning`` is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tl_lightning.api.create import create as create
    from tl_lightning.api.export import export as export
    from tl_lightning.api.run import evaluate as evaluate
    from tl_lightning.api.run import fit as fit
    from tl_lightning.api.run import load as load
    from tl_lightning.api.run import predict as predict
    from tl_lightning.data.datamodules.base import TransferDataModule as TransferDataModule
    from tl_lightning.data.needs import ModelNeeds as ModelNeeds
    from tl_lightning.inference.predictor import Predictor as Predictor
    from tl_lightning.methods.base import Method as Method
    from tl_lightning.methods.base import Penalty as Penalty
    from tl_lightning.methods.components.target_bank import TargetBank as TargetBank
    from tl_lightning.models.base import TransferModule as TransferModule
    from tl_lightning.types import Context as Context
    from tl_lightning.types import InputSpec as InputSpec
    from tl_lightning.types import LayerGroup as LayerGroup
    from tl_lightning.types import View as View

__version__ = "0.1.0"

_HOMES = {
    "api.create": ("create",),
    "api.export": ("export",),
    "api.run": ("evaluate", "fit", "load", "predict"),
    "data.datamodules.base": ("TransferDataModule",),
    "data.needs": ("ModelNeeds",),
    "inference.predictor": ("Predictor",),
    "methods.base": ("Method", "Penalty"),
    "methods.components.target_bank": ("TargetBank",),
    "models.base": ("TransferModule",),
    "types": ("Context", "InputSpec", "LayerGroup", "View"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tl_lightning' has no attribute {name!r}")
    value = getattr(import_module(f"tl_lightning.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
