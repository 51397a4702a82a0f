"""What of a configuration's data does not go with its backbone, its methods or its cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tl_lightning.config.instantiate import find_class

__all__ = ["feature_faults", "input_faults"]

#: A backbone to propose for each kind of input.
_BACKBONES = {"pictures": "resnet18", "texts": "minilm", "vectors": "vector_net"}


def input_faults(config: Mapping[str, Any], allowed: list[str]) -> list[str]:
    """Return why the data are nothing for the backbone, or for a method."""
    data, _ = find_class(config["data"]["_target_"], "data", allowed)
    backbone, _ = find_class(config["backbone"]["_target_"], "backbone", allowed)
    gives, takes = getattr(data, "gives", "pictures"), getattr(backbone, "takes", "pictures")
    name, faults = config["data"]["name"], []
    if gives != takes:
        faults.append(
            f"data={name} gives {gives}, but backbone={config['backbone']['_target_']} takes "
            f"{takes}; type backbone={_BACKBONES[gives]}"
        )
    for method, node in config["adapter"].items():
        cls, _ = find_class(node["_target_"], f"adapter.{method}", allowed)
        if "target_strong" in cls.needs and not getattr(data, "has_strong", True):
            faults.append(
                f"adapter={method} learns from strongly changed pictures, and data={name} gives "
                f"{gives}; choose another method"
            )
    return faults


def feature_faults(cache: Mapping[str, Any], data: Mapping[str, Any], model: str) -> list[str]:
    """Return why features cannot be stored as asked; what is frozen is known only once built."""
    mode, views = cache.get("features"), cache.get("views")
    augment = data.get("augment", "none")
    faults = []
    if views is not None and views < 1:
        faults.append(f"cache.views={views} is no number of views; type cache.views=8, or null")
    elif views is not None and augment == "none":
        faults.append(
            f"cache.views={views}, but data.augment=none shows every picture alike; type "
            "cache.views=null, or data.augment=light"
        )
    if mode not in ("full", "prefix"):
        return faults
    if views is None and augment != "none":
        faults.append(
            f"cache.features={mode} would show each picture alike in every epoch, but "
            f"data.augment={augment}; type data.augment=none, or cache.views=8"
        )
    mixed = [name for name, alpha in data.get("mix", {}).items() if alpha]
    if mixed:
        faults.append(
            f"cache.features={mode} with model={model} cannot mix pictures that it does not see, "
            f"but data.mix.{mixed[0]}={data['mix'][mixed[0]]}; type data.mix.{mixed[0]}=0, or "
            "cache.features=off"
        )
    return faults
