"""Check of a whole configuration, with every ``auto`` resolved."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tl_lightning.config.instantiate import ALLOWED
from tl_lightning.config.signatures import GIVEN, TAKEN, check_nodes
from tl_lightning.config.validation.combinations import pair_problems, phase_problems
from tl_lightning.config.validation.distributed import strategy_problems
from tl_lightning.config.validation.general import range_problems, top_level_problems
from tl_lightning.config.validation.resolve import (
    resolve_auto,
    resolve_phases,
    resolve_target,
    rule_of,
)
from tl_lightning.config.validation.structure import number_problems, structure_problems
from tl_lightning.config.validation.tasks import name_problems
from tl_lightning.config.validation.trainer import device_problems, trainer_problems
from tl_lightning.errors import ConfigError
from tl_lightning.selection.rules import SELECTIONS
from tl_lightning.types import Config

__all__ = ["check"]


def check(cfg: DictConfig | Mapping[str, Any]) -> Config:
    """Return the configuration as plain containers, with every ``auto`` resolved.

    Neither data nor a network is touched.

    Raises:
        ConfigError: If there are problems; lists all of them, not only the first.
    """
    plain: Any = OmegaConf.to_container(cfg, resolve=True) if OmegaConf.is_config(cfg) else cfg
    config: Config = copy.deepcopy(dict(plain))
    if problems := structure_problems(config):
        raise ConfigError(problems)
    allowed = [*ALLOWED, *(config.get("allow") or [])]
    problems = top_level_problems(config) + device_problems(config["trainer"])
    problems += number_problems(config)
    config = resolve_target(resolve_auto(config), allowed)
    problems += check_nodes(config, GIVEN, allowed, TAKEN) + name_problems(config)
    if not problems:
        config["selection"] = rule_of(config)
    if not problems:
        problems = range_problems(config, allowed) + pair_problems(config) + phase_problems(config)
        problems += strategy_problems(config)
        problems += trainer_problems(config, SELECTIONS[config["selection"]].monitor)
    if problems:
        raise ConfigError(problems)
    return resolve_phases(config)
