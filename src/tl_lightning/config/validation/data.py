"""Checks of the data against the backbone, the methods and the feature cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tl_lightning.config.instantiate import find_class

__all__ = ["feature_problems", "input_problems"]

#: Suggested backbone for each kind of input.
_BACKBONES = {"images": "resnet18", "texts": "minilm", "vectors": "vector_net"}


def input_problems(config: Mapping[str, Any], allowed: list[str]) -> list[str]:
    """Return why the data cannot be used with the backbone or a method."""
    data, _ = find_class(config["data"]["_target_"], "data", allowed)
    backbone, _ = find_class(config["backbone"]["_target_"], "backbone", allowed)
    gives, takes = getattr(data, "gives", "images"), getattr(backbone, "takes", "images")
    name, problems = config["data"]["name"], []
    if gives != takes:
        problems.append(
            f"data={name} provides {gives}, but backbone={config['backbone']['_target_']} expects "
            f"{takes}; set backbone={_BACKBONES[gives]}"
        )
    for method, node in config["method"].items():
        cls, _ = find_class(node["_target_"], f"method.{method}", allowed)
        if "target_strong" in cls.extra_views and not getattr(data, "has_strong", True):
            problems.append(
                f"method=[{method}] needs strongly augmented images, but data={name} provides "
                f"{gives}; use another method"
            )
    return problems


def feature_problems(cache: Mapping[str, Any], data: Mapping[str, Any], model: str) -> list[str]:
    """Return why features cannot be cached; frozen layers are checked once the model is built."""
    mode, views = cache.get("features"), cache.get("views")
    augment = data.get("augment", "none")
    problems = []
    if views is not None and views < 1:
        problems.append(f"cache.views={views} must be at least 1 or null; set cache.views=8")
    elif views is not None and augment == "none":
        problems.append(
            f"cache.views={views} stores augmented views, but data.augment=none; set "
            "cache.views=null, or data.augment=light"
        )
    if mode not in ("full", "prefix"):
        return problems
    if views is None and augment != "none":
        problems.append(
            f"cache.features={mode} stores features of the images without augmentation, but "
            f"data.augment={augment}; set data.augment=none, or cache.views=8"
        )
    if mixed := mixing_keys(data):
        problems.append(
            f"data.{mixed[0]}={data[mixed[0]]} mixes images, but model={model} with "
            f"cache.features={mode} loads no images in training; set data.{mixed[0]}=0, or "
            "cache.features=off"
        )
    return problems


def mixing_keys(data: Mapping[str, Any]) -> list[str]:
    """Return the enabled settings that mix images and labels."""
    return [key for key in ("mixup_alpha", "cutmix_alpha") if data.get(key)]
