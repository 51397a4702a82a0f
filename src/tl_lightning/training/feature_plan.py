"""What of a frozen network runs once a picture, and where the result lies.

What is stored is what the network gives at the run's own precision, so that training on it equals
training through the network up to the rounding of other batch sizes. Under ``bf16-mixed`` features
are bfloat16: those of mobilenet_v2 differ from its float32 ones by a tenth of their standard
deviation in the mean (photographs of 12 breeds of dogs; the least cosine of the two is 0.986).
"""

from __future__ import annotations

import hashlib
import math
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tl_lightning.data.cache.features import FeatureSet, split_digest
from tl_lightning.data.cache.images import CacheSettings
from tl_lightning.data.datamodules.base import TransferData
from tl_lightning.errors import ConfigError
from tl_lightning.models.base import TransferModule
from tl_lightning.models.supervised import FeatureExtraction
from tl_lightning.types import LayerGroup

__all__ = ["Plan", "plan", "through"]

#: Settings of a backbone that change no feature, or whose weights' own hash says more.
_APART = ("lr_factor", "pretrained", "weights", "tag", "checkpoint", "grad_checkpointing")


@dataclass(frozen=True)
class Plan:
    """What of a network is run once.

    Attributes:
        mode: ``full`` for features, ``prefix`` for the output of its first layer groups.
        groups: Those groups; none for ``full``.
        rest: The groups after them, which run in every step.
        views: Stored views of every training picture, or None: the plain picture.
        sets: Where everything lies, by ``role/split``.
    """

    mode: Literal["off", "full", "prefix"] = "off"
    groups: tuple[LayerGroup, ...] = ()
    rest: tuple[LayerGroup, ...] = ()
    views: int | None = None
    sets: Mapping[str, FeatureSet] | None = None


def plan(
    module: TransferModule, data: TransferData, settings: CacheSettings, numerics: Mapping[str, Any]
) -> Plan:
    """Decide what to store.

    Args:
        module: The model, not yet trained.
        data: Attached to it.
        settings: What was asked for.
        numerics: The trainer's ``precision`` and ``accelerator``.

    Raises:
        ConfigError: If nothing stays frozen, or what was asked for does not fit on the disk.
    """
    mode = settings.features
    if mode == "auto":
        mode = _automatic(module, data, settings)
    if mode == "off":
        return Plan()
    if not data.storable:
        raise ConfigError(
            f"cache.features={mode} keeps features by the places of pictures, which "
            f"data={data.name} does not have; type cache.features=off"
        )
    groups, rest = _divided(module, mode)
    sets = _sets(module, data, settings, numerics, groups)
    found = Plan("prefix" if rest else "full", groups, rest, settings.views, sets)
    fault = _size_fault(found, module, settings, str(numerics["precision"]))
    if not fault:
        return found
    if settings.features == "auto":
        print(f"features are computed anew in every epoch: {fault}", file=sys.stderr)
        return Plan()
    raise ConfigError(f"cache.features={mode}: {fault}")


def _automatic(
    module: TransferModule, data: TransferData, settings: CacheSettings
) -> Literal["off", "full"]:
    if not isinstance(module, FeatureExtraction) or any(data.mix.values()) or not data.storable:
        return "off"
    if data.augment == "none" or settings.views is not None:
        return "full"
    print(
        f"features are computed anew in every epoch because data.augment={data.augment}; "
        "data.augment=none, or cache.views=8, computes them once",
        file=sys.stderr,
    )
    return "off"


def _divided(
    module: TransferModule, mode: str
) -> tuple[tuple[LayerGroup, ...], tuple[LayerGroup, ...]]:
    """Return the layer groups that run once and those that run in every step."""
    if isinstance(module, FeatureExtraction):
        return (), ()
    groups, depth = tuple(module.backbone.layer_groups(chain=True)), module.frozen_depth()
    if depth == len(groups):
        return (), ()
    learning = ", ".join(group.name for group in groups[depth:])
    if mode == "full":
        raise ConfigError(
            f"cache.features=full needs a backbone that is frozen for the whole run, but "
            f"model={module.name} trains {learning}; type model=feature_extraction, or "
            "cache.features=off"
        )
    if depth == 0:
        raise ConfigError(
            f"cache.features=prefix needs first layers that never train, but model={module.name} "
            f"trains {learning}; type cache.features=off, or keep the first layers frozen"
        )
    if any(group.run is None for group in groups):
        raise ConfigError(
            f"cache.features=prefix needs a network that is a chain of its layer groups, and "
            f"{type(module.backbone).__name__} is none; type cache.features=off"
        )
    return groups[:depth], groups[depth:]


def _sets(
    module: TransferModule,
    data: TransferData,
    settings: CacheSettings,
    numerics: Mapping[str, Any],
    groups: tuple[LayerGroup, ...],
) -> dict[str, FeatureSet]:
    saved: Any = module.hparams
    spec = module.backbone.input_spec
    network = {
        "backbone": {k: v for k, v in saved["config"]["backbone"].items() if k not in _APART},
        "layer": groups[-1].name if groups else "features",
        "weights": _weights_digest(module, groups),
        "input": asdict(spec),
        "channels_last": module.layout == torch.channels_last,
        **numerics,
    }
    sets = {}
    for key, split in data.stored_splits().items():
        role, _, name = key.partition("/")
        augmented = settings.views is not None and name == "train"
        views = {"augment": data.augment if augmented else "none"}
        # What is evaluated is the same from decoded pictures as from files; random crops are not.
        decoded = settings.images if augmented else None
        shown = {**views, "shorter": settings.shorter, "decoded": decoded}
        domain = data.found[role.removesuffix("_labelled")].name
        sets[key] = FeatureSet(
            root=settings.root / "features",
            name=f"{data.name}-{domain}-{name}".replace("/", "_"),
            number=len(split),
            views=settings.views if augmented and settings.views else 1,
            depends={**network, **shown, "pictures": split_digest(split)},
        )
    return sets


def _weights_digest(module: TransferModule, groups: tuple[LayerGroup, ...]) -> str:
    """Return a hash of every weight and buffer that the stored part holds."""
    digest = hashlib.sha256()
    assert isinstance(module.backbone, nn.Module)
    parts = [part for group in groups for part in group.modules] or [module.backbone]
    for number, part in enumerate(parts):
        for name, value in part.state_dict().items():
            digest.update(f"{number}/{name}/{tuple(value.shape)}/{value.dtype}".encode())
            flat = value.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _size_fault(
    chosen: Plan, module: TransferModule, settings: CacheSettings, precision: str
) -> str:
    """Return why the disk cannot take what is missing; empty if it can."""
    missing = [s for s in (chosen.sets or {}).values() if s.found() is None]
    if not missing:
        return ""
    if chosen.groups:
        size, training = module.backbone.input_spec.size, module.training
        module.eval()
        with torch.inference_mode():
            blank = torch.zeros(1, len(module.backbone.input_spec.mean), size, size)
            shape = tuple(through(chosen.groups, blank).shape[1:])
        module.train(training)
    else:
        shape = (module.backbone.out_features,)
    one = math.prod(shape) * (2 if "16" in precision else 4)
    needed = one * sum(each.number * each.views for each in missing)
    root = missing[0].root
    there = next(folder for folder in (root, *root.parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    if needed <= min(1e9 * settings.limit_gb, free / 2):
        return ""
    return (
        f"they would take {needed / 1e9:.3g} GB, {one / 1e6:.3g} MB a picture "
        f"(cache.limit_gb={settings.limit_gb:g}, {free / 1e9:.1f} GB free in {there}); type "
        "cache.features=off, a larger cache.limit_gb, or cache.dir=/a/larger/disk"
    )


def through(groups: tuple[LayerGroup, ...], out: Tensor) -> Tensor:
    """Return what these layer groups make of their input."""
    for group in groups:
        assert group.run is not None
        out = group.run(out)
    return out
