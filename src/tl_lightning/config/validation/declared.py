"""Checks of what classes declare of themselves: domains that they train on, and data they give.

They need no instance and no import: :func:`early_problems` runs them on classes read from source,
so that a model without the target it adapts to is refused before torch is imported. They run again
on the imported classes, as those of other packages cannot be read.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tl_lightning.config.instantiate import find_nodes, node_of
from tl_lightning.config.schema import RunConfig
from tl_lightning.config.static import NotStatic, StaticClass, is_kind
from tl_lightning.config.validation.data import ADAPTATION, data_problems
from tl_lightning.config.validation.kinds import kind_problems
from tl_lightning.config.validation.structure import of_another_kind
from tl_lightning.config.validation.unseen import unseen_problems
from tl_lightning.data.target import no_target, target_setting

__all__ = ["ADAPTATION", "DECLARED", "early_problems"]

_SOURCE_FREE = "tl_lightning.models.adaptation.SourceFree"


def early_problems(config: Mapping[str, Any]) -> list[str]:
    """Return what the checks of this module find without importing a class that is configured.

    Settings that are ``auto`` are left to the checks of the resolved configuration.

    Args:
        config: A plain configuration whose keys and types are valid.
    """
    plain = copy.deepcopy(dict(config))
    if any(of_another_kind(path, node) for path, node in find_nodes(plain)):
        return []
    classes = {path: StaticClass(str(node["_target_"])) for path, node in find_nodes(plain)}
    target = plain["data"].get("target")
    if target is not None and not isinstance(target, Mapping):  # whose class says what is wrong
        return []
    try:
        if target is not None and no_target(classes["data"], target):
            plain["data"]["target"] = None
    except NotStatic:  # a data module of the user
        return []
    nodes = {path: node_of(path, classes[path], node, {}) for path, node in find_nodes(plain)}
    run = RunConfig.of(plain, nodes)
    found: list[str] = []
    for problems in DECLARED:
        try:
            found += problems(run)
        except NotStatic:  # the check of the imported classes will tell
            continue
    return found


def _target_problems(run: RunConfig) -> Iterator[str]:
    """Yield what is wrong with a model that needs a target."""
    model, data = run.model.cls, run.data.cls
    if model.learn_from == "target" and run.data.params.get("transductive"):
        yield (
            f"model={run.name} would be tested on the target images that it was trained on, "
            "because data.transductive=true; set data.transductive=false, or remove it from "
            "baselines"
        )
    if run.target is not None:
        return
    if "target" in {*model.train_on, model.learn_from}:
        ways = [f"set data.target.{target_setting(data)}"]
        if not data.target_optional:
            ways.append("keep the dataset's default data.target")
        if "source" in model.train_on:
            ways.append("set model=source_only")
        verb = "adapts to" if model.learn_from == "source" else "learns from"
        yield (f"model={run.name} {verb} a target, but data.target=null; {', or '.join(ways)}")
    if run.track_target:
        yield (
            "track_target=true logs accuracy on the target, but data.target=null; set "
            "track_target=false"
        )


def _method_problems(run: RunConfig) -> Iterator[str]:
    """Yield the methods that do not fit the model, or lack the views they need."""
    listed = f"method=[{','.join(run.methods)}]"
    if run.methods and not is_kind(run.model.cls, ADAPTATION):
        yield (
            f"model={run.name} does not support adaptation methods, got {listed}; set "
            "model=domain_adaptation"
        )
        return
    yield from _source_problems(run)
    yield from _view_problems(run)


def _source_problems(run: RunConfig) -> Iterator[str]:
    if not is_kind(run.model.cls, _SOURCE_FREE):
        for name, node in run.methods.items():
            if node.cls.source_free:
                yield (
                    f"method=[{name}] adapts a trained model without source data; set "
                    "model=source_free init=<run folder>"
                )
        return
    if not run.init:
        yield "model=source_free adapts a trained model, but init=null; set init=<run folder>"
    for name, node in run.methods.items():
        if "source" in {*node.cls.required_domains, *node.cls.teacher_views}:
            yield (
                f"method=[{name}] needs source data, which model=source_free does not load; set "
                "model=domain_adaptation, or use a method that needs only target data (shot, tent, "
                "mcc, bnm, entropy, adabn)"
            )


def _view_problems(run: RunConfig) -> Iterator[str]:
    labelled, features = (run.target or {}).get("labelled_per_class"), run.cache.features
    for name, node in run.methods.items():
        if "target_labelled" in node.cls.extra_views and not labelled:
            yield (
                f"method=[{name}] needs few-shot target samples; set "
                "data.target.labelled_per_class=3, or use a dataset that supports this setting"
            )
        if "target_strong" in node.cls.extra_views and features in ("full", "prefix"):
            yield (
                f"method=[{name}] augments target images in every step, but cache.features="
                f"{features} replaces images by stored features; set cache.features=off"
            )
        if node.cls.teacher is not None and features == "prefix":
            yield (
                f"method=[{name}] keeps a second copy of the network, which is not supported with "
                "cache.features=prefix; set cache.features=off"
            )
    for kind, text in (("teacher", "method with a teacher"), ("alternating", "alternating method")):
        names = [name for name, node in run.methods.items() if getattr(node.cls, kind)]
        if len(names) > 1:
            listed = f"method=[{','.join(names)}]"
            yield f"{listed}: only one {text} can be used at a time; keep one of them"


#: The checks of this module and of the modules that need no imported class either.
DECLARED: tuple[Callable[[RunConfig], Iterator[str]], ...] = (
    kind_problems, _target_problems, data_problems, _method_problems, unseen_problems,
)  # fmt: skip
