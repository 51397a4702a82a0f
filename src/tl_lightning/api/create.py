"""Parts of a run built from Python, with the defaults of ``conf/``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from tl_lightning.config.compose import as_dict, composed, with_values
from tl_lightning.config.instantiate import ALLOWED, nodes_of
from tl_lightning.config.paths import CONF, choices
from tl_lightning.config.schema import known_keys
from tl_lightning.config.signatures import PROVIDED, RESOLVED, for_path
from tl_lightning.config.validation.check import check
from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.errors import ConfigError, nearest
from tl_lightning.models.base import TransferModule
from tl_lightning.tasks.encoding import encoding_of
from tl_lightning.training.build import aux_label_info, build_module
from tl_lightning.training.sizes import with_sizes

__all__ = ["create"]

#: Groups whose choices fill a key of another name, or one key per choice.
_PATHS = {"method": "method.{}", "regularizer": "regularizer.{}", "aux_task": "aux_tasks.{}"}
#: Settings of a run that a model alone does not have.
_NOT_OF_A_MODEL = (
    "baselines", "cache", "callbacks", "checkpointing", "compile", "debug", "logger", "report",
    "resume", "selection", "test", "track_target", "trainer",
)  # fmt: skip
#: Values that a configuration file can contain.
_PLAIN = (str, int, float, bool, type(None), list, tuple, dict, Path)


def create(group: str, name: str, **settings: Any) -> Any:
    """Return a part, such as ``create("method", "dann", in_features=512, num_classes=31)``.

    Its settings default to those of ``conf/<group>/<name>.yaml``, as on the command line. A model
    needs ``data``, see :func:`_model`.

    Args:
        group: ``backbone``, ``head``, ``loss``, ``method``, ``data``, ``model``, ...: a folder of
            ``conf/`` whose files name a class.
        name: One of its files.
        settings: Settings to change, and what the framework otherwise provides (such as
            ``in_features`` and ``num_classes``). Mappings are merged into the defaults; objects,
            such as a transform of torchvision, are passed as they are.

    Raises:
        ConfigError: If the group, the name or a setting is not valid.

    >>> create("head", "linear", in_features=8, num_classes=3).out_features
    8
    """
    sections = {*known_keys(), *_PATHS} - {"trainer"}
    groups = sorted(path.name for path in CONF.iterdir() if path.name in sections)
    if group not in groups:
        raise ConfigError(f"{group!r} is not a group of conf/; {nearest(group, groups)}")
    names = choices(group)
    if name not in names:
        raise ConfigError(f"{group}={name} is not a choice; {nearest(name, names)}")
    if group == "model":
        return _model(name, **settings)
    choice = f"[{name}]" if group in _PATHS else name
    config = as_dict(composed([f"{group}={choice}"], ()))
    path = _PATHS.get(group, group).format(name)
    node = config
    for key in path.split("."):
        node = node[key]
    if "_target_" not in node:
        raise ConfigError(f"{group}={name} names no class that could be created")
    provided = for_path(PROVIDED, path) or set()
    objects = {key for key, value in settings.items() if not isinstance(value, _PLAIN)}
    given = {key: value for key, value in settings.items() if key in provided | objects}
    changes = {key: value for key, value in settings.items() if key not in provided | objects}
    if unknown := [key for key in (*changes, *(objects - provided)) if key not in node]:
        known = {*node, *provided} - {"_target_"}
        raise ConfigError(
            f"{unknown[0]} is not a setting of {group}={name}; {nearest(unknown[0], known)}"
        )
    plain = _merged(node, changes)
    for key in for_path(RESOLVED, path) or ():
        if plain.get(key) == "auto":
            plain[key] = torch.cuda.is_available()
    found, problems = nodes_of(_nested(path, plain), ALLOWED)
    if not problems and hasattr(found[path].cls, "check_config"):
        problems = list(found[path].cls.check_config(path, found[path].params))
    if problems:
        raise ConfigError(problems)
    built = found[path]
    if unused := [key for key in changes if key in built.consumed]:
        raise ConfigError(
            f"{unused[0]} of {group}={name} is applied when a model is built; pass "
            f"overrides=['{path}.{unused[0]}=...'] to create('model', ...)"
        )
    part = replace(
        built, params={key: value for key, value in built.params.items() if key not in objects}
    ).build(**given)
    if isinstance(part, TransferDataModule):
        part.settings = plain
    return part


def _merged(node: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    plain = {key: _plain(value) for key, value in changes.items()}
    merged = OmegaConf.merge(OmegaConf.create(dict(node)), OmegaConf.create(plain))
    found: Any = OmegaConf.to_container(merged, resolve=True)
    return dict(found)


def _plain(value: Any) -> Any:
    """Return a value as YAML would contain it."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _nested(path: str, value: Any) -> dict[str, Any]:
    for key in reversed(path.split(".")):
        value = {key: value}
    found: dict[str, Any] = value
    return found


def _model(
    name: str,
    *,
    data: TransferDataModule | None = None,
    classes: int | Sequence[str] | None = None,
    backbone: str | nn.Module | None = None,
    overrides: Sequence[str] = (),
    **own: Any,
) -> TransferModule:
    """Return a model to be trained with ``lightning.Trainer``.

    Args:
        name: A file of ``conf/model/``.
        data: The data module that it is trained on, for its classes.
        classes: In place of ``data``, for loaders of your own: the names of the classes, or their
            number. See :meth:`.TransferModule.training_batches` for the batches.
        backbone: A file of ``conf/backbone/``, or a network, see :class:`.types.Backbone`; None:
            as ``conf/`` sets it for the data. A network without ``input_spec`` gets the inputs of
            your own loaders as they are.
        overrides: Any other settings, as on the command line: ``["method=[mcc]", "seed=1"]``.
        own: Parts of your own: ``loss`` (a module), ``optimizer`` (a function of the parameter
            groups), ``scheduler`` (a function of the optimizer, which steps after every epoch), and
            ``metrics`` and ``methods`` by name, besides those of the configuration.

    Raises:
        ConfigError: If not exactly one of ``data`` and ``classes`` is given, or if a setting is not
            valid.
    """
    if (data is None) == (classes is None):
        raise ConfigError(f"model={name} needs data=<data module> or classes=<names or number>")
    if data is not None and not isinstance(data, TransferDataModule):
        raise ConfigError(
            f"data is a {type(data).__name__}, not a tl_lightning.TransferDataModule; pass "
            "classes=<names or number> instead"
        )
    for one in overrides:
        if one.lstrip("+~").split("=")[0].split(".")[0] in _NOT_OF_A_MODEL:
            raise ConfigError(
                f"{one} has no effect on a model; pass it to lightning.Trainer, or call "
                "tl_lightning.fit"
            )
    late = [one for one in overrides if one.lstrip("+~").startswith(("data.", "data="))]
    if data is not None and late:
        raise ConfigError(f"{late[0]} has no effect on data=<data module>; set it when creating it")
    named = [f"backbone={backbone}"] if isinstance(backbone, str) else []
    settings = (data.settings or {}) if data is not None else {}
    dataset = settings.get("name")
    dataset = dataset if (CONF / f"data/{dataset}.yaml").is_file() else "custom"
    config = as_dict(composed([f"model={name}", f"data={dataset}", *named, *overrides], ()))
    run = check(with_values(config, {"data": settings} if settings else {}))
    if not isinstance(backbone, str | None):
        own["backbone"] = backbone
    if run.steps:
        raise ConfigError(
            "phases need the callbacks of tl_lightning.fit or scripts/train.py; leave them out"
        )
    if data is None:
        names = [str(index) for index in range(classes)] if isinstance(classes, int) else classes
        if names is None or isinstance(names, str) or len(names) < 2:
            raise ConfigError(f"classes={classes!r} must be two or more names, or their number")
        return build_module(run, list(names), own=own)
    data.encoding = encoding_of(run.task)
    info = data.discover(learn_from=run.model.cls.learn_from)
    run = with_sizes(run, info)
    labels = aux_label_info(run, data)
    return build_module(
        run, info.classes, class_counts=info.class_counts, aux_info=labels, own=own,
        input_state=info.input_state,
    )  # fmt: skip
