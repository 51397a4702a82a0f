"""Check of a whole configuration, with every ``auto`` resolved."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from omegaconf import DictConfig

from tl_lightning.config.compose import as_dict
from tl_lightning.config.schema import RunConfig, section_problems
from tl_lightning.config.validation.declared import early_problems
from tl_lightning.config.validation.structure import signature_problems, structure_problems
from tl_lightning.errors import ConfigError

__all__ = ["check", "check_keys"]


def check(cfg: DictConfig | Mapping[str, Any] | RunConfig) -> RunConfig:
    """Return the typed configuration, with every ``auto`` resolved.

    Neither data nor a network is touched. The checks run in four stages, so that a mistake in the
    command line is reported before torch is imported: unknown keys and wrong types; what classes
    declare of themselves, such as a model that needs a target; settings that a class refuses;
    combinations of settings. Each stage reports all its problems.

    Args:
        cfg: A composed configuration, or one that has been checked already.

    Raises:
        ConfigError: If there are problems.
    """
    if isinstance(cfg, RunConfig):
        return cfg
    config = check_keys(cfg)
    # Only now: these import the classes that the configuration names.
    from tl_lightning.config.validation.combinations import combination_problems
    from tl_lightning.config.validation.parts import checked_nodes, part_problems
    from tl_lightning.config.validation.resolve import resolve, resolve_run

    nodes, problems = checked_nodes(config)
    _raise(problems)
    run = RunConfig.of(*resolve(config, nodes))
    _raise(part_problems(run))
    _raise(combination_problems(run))
    return resolve_run(run)


def check_keys(cfg: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the plain configuration after the first two stages of :func:`check`.

    It imports neither torch nor Lightning.

    Raises:
        ConfigError: If there are unknown keys, values of a wrong type, or parts that do not fit
            each other by what they declare.
    """
    plain = as_dict(cfg) if isinstance(cfg, DictConfig) else cfg
    config: dict[str, Any] = copy.deepcopy(dict(plain))
    _raise(structure_problems(config))
    _raise([*section_problems(config), *signature_problems(config)])
    _raise(early_problems(config))
    return config


def _raise(problems: Iterable[str]) -> None:
    if found := list(problems):
        raise ConfigError(found)
