"""A configuration before anything is built: every fault at once, every ``auto`` made plain."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tl_lightning.config.instantiate import ALLOWED
from tl_lightning.config.signatures import GIVEN, TAKEN, check_nodes
from tl_lightning.config.validation.combinations import pair_faults, phase_faults
from tl_lightning.config.validation.distributed import strategy_faults
from tl_lightning.config.validation.general import range_faults, top_level_faults
from tl_lightning.config.validation.resolve import (
    resolve_auto,
    resolve_phases,
    resolve_target,
    rule_of,
)
from tl_lightning.config.validation.structure import number_faults, shape_faults
from tl_lightning.config.validation.tasks import name_faults
from tl_lightning.config.validation.trainer import device_faults, trainer_faults
from tl_lightning.errors import ConfigError
from tl_lightning.selection.rules import SELECTIONS
from tl_lightning.types import Config

__all__ = ["check"]


def check(cfg: DictConfig | Mapping[str, Any]) -> Config:
    """Return the configuration as plain containers, or raise all of its faults at once.

    Touches no data and no network.

    Raises:
        ConfigError: Lists every fault found.
    """
    plain: Any = OmegaConf.to_container(cfg, resolve=True) if OmegaConf.is_config(cfg) else cfg
    config: Config = copy.deepcopy(dict(plain))
    if faults := shape_faults(config):
        raise ConfigError(faults)
    allowed = [*ALLOWED, *(config.get("allow") or [])]
    faults = top_level_faults(config) + device_faults(config["trainer"])
    faults += number_faults(config)
    config = resolve_target(resolve_auto(config), allowed)
    faults += check_nodes(config, GIVEN, allowed, TAKEN) + name_faults(config)
    if not faults:
        config["selection"] = rule_of(config)
    if not faults:
        faults = range_faults(config, allowed) + pair_faults(config) + phase_faults(config)
        faults += strategy_faults(config)
        faults += trainer_faults(config, SELECTIONS[config["selection"]].monitor)
    if faults:
        raise ConfigError(faults)
    return resolve_phases(config)
