"""Checks of the data against the backbone, the methods and the feature cache."""

from __future__ import annotations

from collections.abc import Iterator

from tl_lightning.config.schema import RunConfig
from tl_lightning.config.static import is_kind

__all__ = ["ADAPTATION", "data_problems", "mixing_keys"]

#: Base class of the models with adaptation methods.
ADAPTATION = "tl_lightning.models.adaptation.DomainAdaptation"
_IMAGES = "tl_lightning.data.datamodules.image.ImageDataModule"

#: Suggested backbone for each kind of input.
_BACKBONES = {"images": "resnet18", "texts": "minilm", "vectors": "vector_net"}


def data_problems(run: RunConfig) -> Iterator[str]:
    """Yield why the data cannot be used as configured."""
    gives, takes = run.data.cls.gives, getattr(run.backbone.cls, "takes", "images")
    # The base class stands for loaders of the user, or for a class that is still missing.
    if gives != takes and run.data.target != _IMAGES:
        yield (
            f"data={run.data_name} provides {gives}, but backbone={run.backbone.target} expects "
            f"{takes}; set backbone={_BACKBONES[gives]}"
        )
    for name, node in run.methods.items():
        if "target_strong" in node.cls.extra_views and not run.data.cls.has_strong:
            yield (
                f"method=[{name}] needs strongly augmented images, but data={run.data_name} "
                f"provides {gives}; use another method"
            )
    balanced = run.data.params.get("sampling") == "class_balanced"
    if balanced and run.nodes["loss"].params.get("class_weights") == "balanced":
        yield (
            "data.sampling=class_balanced and loss.class_weights=balanced correct the class "
            "frequencies twice; set loss.class_weights=null, or data.sampling=uniform"
        )
    balanced = run.data.params.get("target_sampling") == "pseudo_balanced"
    if balanced and not (is_kind(run.model.cls, ADAPTATION) and "source" in run.model.cls.train_on):
        yield (
            "data.target_sampling=pseudo_balanced draws target samples by their predicted classes, "
            f"but model={run.name} does not adapt from a source to a target; set "
            "data.target_sampling=uniform, or model=domain_adaptation"
        )
    yield from _feature_problems(run)


def _feature_problems(run: RunConfig) -> Iterator[str]:
    """Yield why features cannot be cached; frozen layers are checked once the model is built."""
    mode, views = run.cache.features, run.cache.views
    params = run.data.params
    setting, change = f"data.augment={params.get('augment', 'none')}", "data.augment=none"
    plain = setting == change
    if params.get("transform") is not None:
        setting, change, plain = "data.transform is set", f"data.transform=null {change}", False
    if views is not None and plain:
        yield (
            f"cache.views={views} stores augmented views, but data.augment=none; set "
            "cache.views=null, or data.augment=light"
        )
    if mode not in ("full", "prefix"):
        return
    if views is None and not plain:
        yield (
            f"cache.features={mode} stores features of the images without augmentation, but "
            f"{setting}; set {change}, or cache.views=8"
        )
    if mixed := mixing_keys(run):
        yield (
            f"data.{mixed[0]}={params[mixed[0]]} mixes images, but model={run.name} with "
            f"cache.features={mode} loads no images in training; set data.{mixed[0]}=0, or "
            "cache.features=off"
        )


def mixing_keys(run: RunConfig) -> list[str]:
    """Return the enabled settings that mix images and labels."""
    return [key for key in ("mixup_alpha", "cutmix_alpha") if run.data.params.get(key)]
