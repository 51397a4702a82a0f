"""Composition of a configuration from ``conf/`` and command-line overrides."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tl_lightning.config.elsewhere import hint
from tl_lightning.config.identity import job_key
from tl_lightning.config.overrides import override_problems, readable
from tl_lightning.config.paths import CONF, group_problems
from tl_lightning.errors import ConfigError
from tl_lightning.utils.run_id import run_id

__all__ = [
    "as_dict",
    "compose",
    "composed",
    "register_resolvers",
    "unknown_key",
    "unknown_overrides",
    "with_values",
]


def _bar() -> dict[str, Any] | None:
    """Return the node of a progress bar if stderr is a terminal."""
    if not sys.stderr.isatty():
        return None
    return {"_target_": "tl_lightning.callbacks.console_log.ProgressBar"}


def _methods(method: DictConfig, default: str) -> str:
    """Return the names of the methods in use, such as ``dann+mcc``, or ``default`` if none."""
    return "+".join(map(str, method)) or default


def _key(*, _root_: DictConfig) -> str:
    """Return the hash of a sweep job that its folder's name ends in."""
    return job_key(as_dict(_root_))


def _gpus(accelerator: str, devices: int | str) -> int | str | None:
    """Return the number of GPUs per node that a job requests; None on CPU."""
    return None if accelerator == "cpu" else devices


def as_dict(cfg: DictConfig) -> dict[str, Any]:
    """Return a composed configuration as plain values, without the ``hydra`` node.

    Raises:
        ConfigError: If an interpolation names a key that does not exist.
    """
    try:
        return _resolved(cfg)
    except OmegaConfBaseException as error:
        raise ConfigError(
            f"{error.full_key} cannot be resolved: {str(error).splitlines()[0]}; set "
            f"{error.full_key}=<value>"
        ) from error


def _resolved(cfg: DictConfig) -> dict[str, Any]:
    return {
        str(key): OmegaConf.to_container(cfg[key], resolve=True)
        if OmegaConf.is_config(cfg[key])
        else cfg[key]
        for key in cfg
        if key != "hydra"
    }


def with_values(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a plain configuration with values set by path.

    >>> with_values({"data": {"seed": 0, "size": 8}, "init": "a"}, {"data.seed": 1, "init": None})
    {'data': {'seed': 1, 'size': 8}, 'init': None}
    """
    found = copy.deepcopy(dict(config))
    for path, value in values.items():
        *parents, key = path.split(".")
        inner = found
        for parent in parents:
            inner = inner[parent]
        inner[key] = value
    return found


def default_node(group: str, name: str) -> dict[str, Any]:
    """Return the node that a choice of ``conf/`` defines by itself, without its defaults list."""
    node: Any = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{name}.yaml"))
    node.pop("defaults", None)
    return dict(node)


def register_resolvers() -> None:
    """Register the resolvers of ``conf/train.yaml``: ``${tl_run_id:}``, ``${tl_key:}``, ..."""
    OmegaConf.register_new_resolver("tl_key", _key, replace=True)
    OmegaConf.register_new_resolver("tl_gpus", _gpus, replace=True)
    OmegaConf.register_new_resolver("tl_methods", _methods, replace=True)
    OmegaConf.register_new_resolver("tl_run_id", run_id, replace=True)
    OmegaConf.register_new_resolver("tl_bar", _bar, replace=True)


register_resolvers()


def compose(overrides: Sequence[str]) -> DictConfig:
    """Return the training configuration for the given overrides, outside a Hydra job."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("train", overrides=readable(overrides))


def composed(overrides: list[str], extra_keys: Iterable[str]) -> DictConfig:
    """Return the training configuration; raise a ConfigError for overrides that Hydra rejects."""
    overrides = readable(overrides)
    if problems := override_problems(overrides):
        raise ConfigError(problems)
    try:
        return compose(overrides)
    except HydraException as error:
        if problems := [*group_problems(overrides), *unknown_overrides(overrides, extra_keys)]:
            raise ConfigError(problems) from error
        message = " ".join(str(error).split("Config search path")[0].split())
        raise ConfigError(f"{message}; run train.py --help to list all settings") from error


def unknown_overrides(overrides: Iterable[str], extra_keys: Iterable[str] = ()) -> list[str]:
    """Return an error message for every override whose key does not exist."""
    items = [item for item in overrides if not item.startswith("-")]
    choices = [item for item in items if (CONF / item.split("=")[0]).is_dir() and "," not in item]
    try:
        node = compose(choices)
    except HydraException:  # no such choice
        return []
    return [problem for item in items if (problem := unknown_key(item, node, extra_keys))]


def unknown_key(override: str, node: Any, extra_keys: Iterable[str] = ()) -> str:
    """Return an error message naming the part of a key that does not exist, or an empty string.

    Args:
        override: A command-line override, such as ``data.batch_size=8``.
        node: The composed configuration.
        extra_keys: Additional top-level keys that the command accepts.

    >>> unknown_key("optimizer.lrat=1", OmegaConf.create({"optimizer": {"lr": 0.1}}))
    "optimizer.lrat is not a setting; did you mean 'lr'?"
    """
    key = override.split("=")[0].lstrip("~").split("@")[0].replace("/", ".")
    parts = key.split(".")
    # A group may set keys elsewhere, as experiment= does.
    if key.startswith("+") or parts[0] == "hydra" or (len(parts) == 1 and (CONF / key).is_dir()):
        return ""
    prefix = ""
    for part in parts:
        if not OmegaConf.is_dict(node):
            return ""
        if part not in node:
            known = [*map(str, node), *([] if prefix else extra_keys)]
            return f"{prefix}{part} is not a setting; {hint(part, known, prefix)}"
        node, prefix = node[part], f"{prefix}{part}."
    return ""
