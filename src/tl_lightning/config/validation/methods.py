"""Checks of the adaptation methods against the rest of the configuration."""

from __future__ import annotations

import json

from tl_lightning.config.validation.classes import method_classes
from tl_lightning.methods.base import Method
from tl_lightning.models.adaptation import DomainAdaptation, SourceFree
from tl_lightning.types import Config

__all__ = ["method_problems", "oracle_problems"]


def method_problems(config: Config, model: type) -> list[str]:
    """Return an error message for every problem of the methods.

    Args:
        config: A configuration whose nodes are each valid.
        model: The class of ``config["model"]``.
    """
    methods = method_classes(config)
    name = config["model"]["name"]
    if methods and not issubclass(model, DomainAdaptation):
        return [
            f"model={name} does not support adaptation methods, got method=[{','.join(methods)}]; "
            "set model=domain_adaptation"
        ]
    problems = _source_problems(config, methods, issubclass(model, SourceFree))
    problems += _need_problems(config, methods)
    precision = str(config["trainer"]["precision"])
    if methods and precision in ("bf16-true", "16-true"):
        problems.append(
            f"trainer.precision={precision} stores the weights in 16 bits, but "
            f"method=[{','.join(methods)}] computes its loss in 32 bits; set trainer.precision="
            f"{precision.replace('true', 'mixed')}"
        )
    return problems + _turn_problems(config, [n for n, cls in methods.items() if cls.alternating])


def _source_problems(config: Config, methods: dict[str, type[Method]], free: bool) -> list[str]:
    if not free:
        return [
            f"method=[{name}] adapts a trained model without source data; set model=source_free "
            "init=<run folder>"
            for name, cls in methods.items()
            if cls.source_free
        ]
    problems = []
    if not config.get("init"):
        problems.append(
            "model=source_free adapts a trained model, but init=null; set init=<run folder>"
        )
    problems += [
        f"method=[{name}] needs source data, which model=source_free does not load; set "
        "model=domain_adaptation, or use a method that needs only target data (shot, tent, mcc, "
        "bnm, entropy, adabn)"
        for name, cls in methods.items()
        if "source" in cls.required_domains or "source" in cls.teacher_views
    ]
    return problems


def _need_problems(config: Config, methods: dict[str, type[Method]]) -> list[str]:
    target, features = config["data"].get("target") or {}, config["cache"].get("features")
    problems = []
    for name, cls in methods.items():
        if "target_labelled" in cls.extra_views and not target.get("labelled_per_class"):
            problems.append(
                f"method=[{name}] needs few-shot target samples; set "
                "data.target.labelled_per_class=3, or use a dataset that supports this setting"
            )
        if "target_strong" in cls.extra_views and features in ("full", "prefix"):
            problems.append(
                f"method=[{name}] augments target images in every step, but cache.features="
                f"{features} replaces images by stored features; set cache.features=off"
            )
        if cls.teacher is not None and features == "prefix":
            problems.append(
                f"method=[{name}] keeps a second copy of the network, which is not supported with "
                "cache.features=prefix; set cache.features=off"
            )
    for kind, text in (("teacher", "method with a teacher"), ("alternating", "alternating method")):
        names = [name for name, cls in methods.items() if getattr(cls, kind)]
        if len(names) > 1:
            listed = f"method=[{','.join(names)}]"
            problems.append(f"{listed}: only one {text} can be used at a time; keep one of them")
    return problems


def _turn_problems(config: Config, methods: list[str]) -> list[str]:
    """Return the settings that conflict with a method that takes several steps per batch."""
    if not methods:
        return []
    trainer, name = config["trainer"], methods[0]
    settings = {  # the value set, and the only one supported
        "trainer.gradient_clip_val": (trainer["gradient_clip_val"], None),
        "trainer.accumulate_grad_batches": (trainer["accumulate_grad_batches"], 1),
        "trainer.max_steps": (trainer["max_steps"], -1),
        "lr_find": (config.get("lr_find", False), False),
    }
    return [
        f"method=[{name}] takes several optimizer steps per batch, which is not supported with "
        f"{key}={value}; set {key}={json.dumps(supported)}"
        for key, (value, supported) in settings.items()
        if value != supported
    ]


def oracle_problems(config: Config) -> list[str]:
    """Return why a model trained on target labels would be tested on its training images."""
    if not config["data"].get("transductive"):
        return []
    return [
        f"model={config['model']['name']} would be tested on the target images that it was trained "
        "on, because data.transductive=true; set data.transductive=false, or remove it from "
        "baselines"
    ]
