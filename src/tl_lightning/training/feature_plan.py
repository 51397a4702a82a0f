"""Plan of the feature cache: which frozen layers run once per image, and where outputs are stored.

Features are stored at the precision of the run, so that training on them equals training through
the network, up to rounding differences between batch sizes. Under ``bf16-mixed``, features are
bfloat16: those of mobilenet_v2 differ from float32 by a tenth of their standard deviation on
average (photographs of 12 dog breeds; minimum cosine similarity 0.986).
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tl_lightning.config.schema import CacheConfig, RunConfig
from tl_lightning.data.cache.features import FeatureSet, split_digest
from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.data.domain import Split
from tl_lightning.errors import ConfigError
from tl_lightning.methods.components.domain_norm import state_of_domain
from tl_lightning.models.base import TransferModule
from tl_lightning.models.optimization import layer_groups_of
from tl_lightning.models.supervised import FeatureExtraction
from tl_lightning.types import LayerGroup, SplitKey
from tl_lightning.utils.console import say

__all__ = ["Plan", "frozen_plan", "numerics_of", "plan", "through", "weights_digest"]

#: Backbone settings that do not affect features, or are covered by the hash of the weights.
_IGNORED = (
    "lr_factor", "pretrained", "weights", "tag", "checkpoint", "grad_checkpointing", "freeze_bn",
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """The part of a network that runs only once per image.

    Attributes:
        mode: ``full`` for features, ``prefix`` for the output of the first layer groups.
        groups: The layer groups that run once; empty for ``full``.
        remaining_layers: The layer groups that run in every step.
        views: Stored augmented views per training image, or None for the image itself.
        sets: The stored features.
        splits: The samples of these sets, if they are not whole splits of the data.
    """

    mode: Literal["off", "full", "prefix"] = "off"
    groups: tuple[LayerGroup, ...] = ()
    remaining_layers: tuple[LayerGroup, ...] = ()
    views: int | None = None
    sets: Mapping[SplitKey, FeatureSet] | None = None
    splits: Mapping[SplitKey, Split] | None = None


def plan(module: TransferModule, data: TransferDataModule, run: RunConfig) -> Plan:
    """Decide which features to store.

    Args:
        module: The model, not yet trained.
        data: The data module, attached to the model.
        run: The configuration.

    Raises:
        ConfigError: If no layers stay frozen, or the requested features do not fit on the disk.
    """
    settings, mode = run.cache, run.cache.features
    if mode == "auto":
        mode = _automatic(module, data, settings)
    if mode == "off":
        return Plan()
    if not data.storable:
        raise ConfigError(
            f"cache.features={mode} is only supported for image and text datasets with random "
            f"access, got data={data.name}; set cache.features=off"
        )
    groups, rest = _divided(module, mode)
    sets = _sets(module, data, run, settings, groups, data.stored_splits())
    found = Plan("prefix" if rest else "full", groups, rest, settings.views, sets)
    problem = _size_problem(found, module, settings, str(run.trainer.precision))
    if not problem:
        return found
    if settings.features == "auto":
        say(f"features are recomputed in every epoch: {problem}")
        return Plan()
    raise ConfigError(f"cache.features={mode}: {problem}")


def frozen_plan(
    module: TransferModule,
    data: TransferDataModule,
    run: RunConfig,
    splits: Mapping[SplitKey, Split],
) -> Plan:
    """Return the plan of storing the features of some splits before the network is trained.

    The arguments are those of :func:`plan`, and the splits; images are not augmented.
    """
    plain = replace(run.cache, views=None)
    return Plan("full", sets=_sets(module, data, run, plain, (), splits), splits=splits)


def numerics_of(run: RunConfig) -> dict[str, str]:
    """Return the settings of the trainer that features depend on."""
    return {"precision": str(run.trainer.precision), "accelerator": run.trainer.accelerator}


def _automatic(
    module: TransferModule, data: TransferDataModule, settings: CacheConfig
) -> Literal["off", "full"]:
    if not isinstance(module, FeatureExtraction) or not data.storable:
        return "off"
    if data.mixup_alpha or data.cutmix_alpha:
        return "off"
    reason, change = f"data.augment={data.augment}", "data.augment=none"
    if data.transform is not None:
        reason, change = "data.transform is set", "data.transform=null data.augment=none"
    elif data.augment == "none":
        return "full"
    if settings.views is not None:
        return "full"
    say(
        f"features are recomputed in every epoch because {reason}; set {change}, or cache.views=8, "
        "to compute them only once"
    )
    return "off"


def _divided(
    module: TransferModule, mode: str
) -> tuple[tuple[LayerGroup, ...], tuple[LayerGroup, ...]]:
    """Return the layer groups that run once and those that run in every step."""
    if isinstance(module, FeatureExtraction):
        return (), ()
    groups, depth = tuple(layer_groups_of(module.backbone, chain=True)), module.frozen_depth()
    if depth == len(groups):
        return (), ()
    trained = ", ".join(group.name for group in groups[depth:])
    if mode == "full":
        raise ConfigError(
            f"cache.features=full needs a backbone that is frozen for the whole run, but "
            f"model={module.name} trains {trained}; set model=feature_extraction, or "
            "cache.features=off"
        )
    if depth == 0:
        raise ConfigError(
            "cache.features=prefix needs first layers that stay frozen, but "
            f"model={module.name} trains {trained}; set cache.features=off, or freeze the first "
            "layers"
        )
    if any(group.run is None for group in groups):
        raise ConfigError(
            "cache.features=prefix needs a backbone whose layer groups form a chain, but those of "
            f"{type(module.backbone).__name__} do not; set cache.features=off"
        )
    return groups[:depth], groups[depth:]


def _sets(
    module: TransferModule,
    data: TransferDataModule,
    run: RunConfig,
    settings: CacheConfig,
    groups: tuple[LayerGroup, ...],
    splits: Mapping[SplitKey, Split],
) -> dict[SplitKey, FeatureSet]:
    spec = module.backbone.input_spec
    weights = {name: weights_digest(module, groups, name) for name in data.domain_names}
    network = {
        "backbone": {k: v for k, v in run.section("backbone").items() if k not in _IGNORED},
        "layer": groups[-1].name if groups else "features",
        "input": asdict(spec),
        "channels_last": module.layout == torch.channels_last,
        **numerics_of(run),
    }
    sets = {}
    for key, split in splits.items():
        augmented = settings.views is not None and key.split in ("train", "labelled")
        views: dict[str, Any] = {"augment": data.augment if augmented else "none"}
        if augmented and data.transform is not None:
            views["transform"] = (data.settings or {}).get("transform")
        # Evaluation crops of decoded images equal those of the files; random crops do not.
        decoded = settings.images if augmented else None
        shown = {**views, "shorter": settings.shorter_side, "decoded": decoded}
        sets[key] = FeatureSet(
            root=settings.root / "features",
            name=f"{data.name}-{data.found[key.domain].name}-{key.split}".replace("/", "_"),
            number=len(split),
            views=settings.views if augmented and settings.views else 1,
            depends={
                **network,
                **shown,
                "weights": weights[key.domain],
                "images": split_digest(split),
            },
        )
    return sets


def weights_digest(module: TransferModule, groups: tuple[LayerGroup, ...], domain: str) -> str:
    """Return a hash of all weights and buffers that a domain passes in the part that runs once."""
    digest = hashlib.sha256()
    assert isinstance(module.backbone, nn.Module)
    parts = [part for group in groups for part in group.modules] or [module.backbone]
    for number, part in enumerate(parts):
        for name, value in state_of_domain(part, domain):
            digest.update(f"{number}/{name}/{tuple(value.shape)}/{value.dtype}".encode())
            flat = value.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _size_problem(
    chosen: Plan, module: TransferModule, settings: CacheConfig, precision: str
) -> str:
    """Return why the missing features do not fit on the disk; empty if they do."""
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
    per_image = math.prod(shape) * (2 if "16" in precision else 4)
    needed = per_image * sum(each.number * each.views for each in missing)
    root = missing[0].root
    folder = next(parent for parent in (root, *root.parents) if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if needed <= min(1e9 * settings.limit_gb, free / 2):
        return ""
    return (
        f"the cache would need {needed / 1e9:.3g} GB, {per_image / 1e6:.3g} MB per image "
        f"(cache.limit_gb={settings.limit_gb:g}, {free / 1e9:.1f} GB free in {folder}); set "
        "cache.features=off, a larger cache.limit_gb, or cache.dir=/a/larger/disk"
    )


def through(groups: tuple[LayerGroup, ...], out: Tensor) -> Tensor:
    """Return the output of a chain of layer groups."""
    for group in groups:
        assert group.run is not None
        out = group.run(out)
    return out
