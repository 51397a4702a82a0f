"""Compose a configuration from conf/ and a command line."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from tl_lightning.config.identity import job_key
from tl_lightning.config.paths import CONF
from tl_lightning.errors import ConfigError, nearest
from tl_lightning.utils.run_id import run_id

__all__ = ["as_dict", "compose", "composed", "register_resolvers", "strangers", "unknown_key"]


def _bar() -> dict[str, Any] | None:
    """Return a progress bar's node where a person is watching."""
    if not sys.stderr.isatty():
        return None
    return {"_target_": "lightning.pytorch.callbacks.RichProgressBar"}


def _methods(adapter: DictConfig, otherwise: str) -> str:
    """Return the names of the adapters in use, such as ``dann+mcc``, or ``otherwise``."""
    return "+".join(map(str, adapter)) or otherwise


def _key(*, _root_: DictConfig) -> str:
    """Return the key of a job of a sweep, in which its folder's name ends."""
    return job_key(as_dict(_root_))


def _gpus(accelerator: str, devices: int | str) -> int | str | None:
    """Return how many GPUs a node has to give to a job."""
    return None if accelerator == "cpu" else devices


def as_dict(cfg: DictConfig) -> dict[str, Any]:
    """Return a composed configuration as plain values, without Hydra's own node."""
    return {
        str(key): OmegaConf.to_container(cfg[key], resolve=True)
        if OmegaConf.is_config(cfg[key])
        else cfg[key]
        for key in cfg
        if key != "hydra"
    }


def register_resolvers() -> None:
    """Make ``${tl_run_id:}``, ``${tl_key:}``, ... of ``conf/train.yaml`` known to OmegaConf."""
    OmegaConf.register_new_resolver("tl_key", _key, replace=True)
    OmegaConf.register_new_resolver("tl_gpus", _gpus, replace=True)
    OmegaConf.register_new_resolver("tl_methods", _methods, replace=True)
    OmegaConf.register_new_resolver("tl_run_id", run_id, replace=True)
    OmegaConf.register_new_resolver("tl_bar", _bar, replace=True)


register_resolvers()


def compose(overrides: Sequence[str]) -> DictConfig:
    """Return the training configuration for the given overrides, outside of a Hydra job."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("train", overrides=list(overrides))


def composed(overrides: list[str], others: Iterable[str]) -> DictConfig:
    """Return the training configuration; what Hydra refuses becomes one sentence."""
    try:
        return compose(overrides)
    except HydraException as error:
        if faults := strangers(overrides, others):
            raise ConfigError(faults) from error
        words = " ".join(str(error).split("Config search path")[0].split())
        raise ConfigError(f"{words}; every setting: train.py --help") from error


def strangers(overrides: Iterable[str], others: Iterable[str] = ()) -> list[str]:
    """Return which of the keys that were typed are no settings of the chosen data, in sentences."""
    typed = [item for item in overrides if not item.startswith("-")]
    chosen = [item for item in typed if (CONF / item.split("=")[0]).is_dir() and "," not in item]
    try:
        node = compose(chosen)
    except HydraException:  # no such choice: Hydra's own words list what there is
        return []
    return [fault for item in typed if (fault := unknown_key(item, node, others))]


def unknown_key(override: str, node: Any, others: Iterable[str] = ()) -> str:
    """Return which part of an override's key is no setting, in a sentence; empty if all are.

    Args:
        override: As typed: ``data.batch_size=8``.
        node: The composed configuration.
        others: Further keys that the command takes.

    >>> unknown_key("optimizer.lrat=1", OmegaConf.create({"optimizer": {"lr": 0.1}}))
    "optimizer.lrat is no setting; did you mean 'lr'?"
    """
    key = override.split("=")[0].lstrip("~").split("@")[0].replace("/", ".")
    parts = key.split(".")
    # A group may bring settings to other places, as experiment= does.
    if key.startswith("+") or parts[0] == "hydra" or (len(parts) == 1 and (CONF / key).is_dir()):
        return ""
    done = ""
    for part in parts:
        if not OmegaConf.is_dict(node):
            return ""
        if part not in node:
            known = [*map(str, node), *([] if done else others)]
            return f"{done}{part} is no setting; {nearest(part, known)}"
        node, done = node[part], f"{done}{part}."
    return ""
