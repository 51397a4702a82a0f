"""What adapters mean for the rest of a configuration, and what does not go together."""

from __future__ import annotations

import json

from tl_lightning.config.validation.classes import adapters_of
from tl_lightning.methods.base import Adapter
from tl_lightning.models.adaptation import DomainAdaptation, SourceFree
from tl_lightning.types import Config

__all__ = ["adaptation_faults", "oracle_faults"]


def adaptation_faults(config: Config, model: type) -> list[str]:
    """Return what is wrong, a sentence each.

    Args:
        config: Every node of it is right by itself.
        model: The class of ``config["model"]``.
    """
    methods = adapters_of(config)
    name = config["model"]["name"]
    if methods and not issubclass(model, DomainAdaptation):
        return [
            f"model={name} takes no adapter, got [{','.join(methods)}]; type "
            "model=domain_adaptation"
        ]
    faults = _source_faults(config, methods, issubclass(model, SourceFree))
    faults += _need_faults(config, methods)
    precision = str(config["trainer"]["precision"])
    if methods and precision in ("bf16-true", "16-true"):
        faults.append(
            f"trainer.precision={precision} makes the weights themselves 16 bits wide, while "
            f"adapter=[{','.join(methods)}] computes its terms in 32; type trainer.precision="
            f"{precision.replace('true', 'mixed')}"
        )
    return faults + _turn_faults(config, [n for n, cls in methods.items() if cls.alternates])


def _source_faults(config: Config, methods: dict[str, type[Adapter]], free: bool) -> list[str]:
    if not free:
        alone = [name for name, cls in methods.items() if cls.source_free]
        return [
            f"adapter=[{name}] adapts a trained model without its source; type model=source_free "
            "init=<folder of a run>"
            for name in alone
        ]
    faults = []
    if not config.get("init"):
        faults.append(
            "model=source_free adapts a trained model, but init=null; type init=<folder of a run>"
        )
    faults += [
        f"adapter=[{name}] needs the source, which model=source_free does not show; type "
        "model=domain_adaptation, or an adapter that reads the target alone (shot, tent, mcc, bnm, "
        "entropy, adabn)"
        for name, cls in methods.items()
        if "source" in cls.reads or "source" in cls.twin_views
    ]
    return faults


def _need_faults(config: Config, methods: dict[str, type[Adapter]]) -> list[str]:
    target, features = config["data"].get("target") or {}, config["cache"].get("features")
    faults = []
    for name, cls in methods.items():
        if "target_labelled" in cls.needs and not target.get("labelled_per_class"):
            faults.append(
                f"adapter=[{name}] needs a few labelled target pictures; type "
                "data.target.labelled_per_class=3 (data sets without that key cannot)"
            )
        if "target_strong" in cls.needs and features in ("full", "prefix"):
            faults.append(
                f"adapter=[{name}] changes the target's pictures in every step, but "
                f"cache.features={features} shows features in their place; type cache.features=off"
            )
        if cls.twin is not None and features == "prefix":
            faults.append(
                f"adapter=[{name}] keeps a second copy of the network, which cache.features=prefix "
                "cannot feed; type cache.features=off"
            )
    for kind in ("twin", "alternates"):
        both = [name for name, cls in methods.items() if getattr(cls, kind)]
        if len(both) > 1:
            words = "keep a second copy of the model" if kind == "twin" else "take turns of steps"
            faults.append(f"adapter=[{','.join(both)}]: all {words}; type only one of them")
    return faults


def _turn_faults(config: Config, methods: list[str]) -> list[str]:
    """Return what cannot stand beside a method that takes several steps a batch."""
    if not methods:
        return []
    trainer, name = config["trainer"], methods[0]
    settings = {  # what is set, and what goes with turns
        "trainer.gradient_clip_val": (trainer["gradient_clip_val"], None),
        "trainer.accumulate_grad_batches": (trainer["accumulate_grad_batches"], 1),
        "trainer.max_steps": (trainer["max_steps"], -1),
        "lr_find": (config.get("lr_find", False), False),
    }
    return [
        f"adapter=[{name}] takes several steps of the optimizer a batch, which {key}={value} does "
        f"not go with; type {key}={json.dumps(usual)}"
        for key, (value, usual) in settings.items()
        if value != usual
    ]


def oracle_faults(config: Config) -> list[str]:
    """Return why a model that learns from target labels could not be tested fairly."""
    if not config["data"].get("transductive"):
        return []
    return [
        f"model={config['model']['name']} would be tested on target pictures whose labels it has "
        "learned, for data.transductive=true; type data.transductive=false, or leave it out of "
        "the bracket"
    ]
