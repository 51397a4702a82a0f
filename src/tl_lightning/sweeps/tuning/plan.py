"""Parsing of the tuning command line: search space and settings of the study."""

from __future__ import annotations

import itertools
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from tl_lightning.config.compose import composed
from tl_lightning.config.paths import CONF, folder_problem
from tl_lightning.errors import ConfigError, nearest
from tl_lightning.sweeps.tuning.space import Setting, Trial, read_setting
from tl_lightning.utils.run_id import run_id

__all__ = ["Plan", "read_plan"]


@dataclass(frozen=True)
class Plan:
    """Search space and settings of a study; the others are described in ``conf/tune/default.yaml``.

    Attributes:
        folder: Folder of the study.
        fixed: Overrides shared by all trials.
        space: Settings to tune.
    """

    folder: Path
    fixed: tuple[str, ...]
    space: tuple[Setting, ...]
    trials: int
    seed: int
    storage: str | None
    metric: str | None
    mode: Literal["max", "min"]
    sampler: Literal["tpe", "random"]
    random_trials: int
    prune: Literal["median", "none"]
    prune_after: int

    def groups(self) -> list[Setting]:
        """Return the settings that select a config group; they determine which other keys exist."""
        return [setting for setting in self.space if (CONF / setting.key).is_dir()]

    def drawn(self, trial: Trial) -> list[str]:
        """Return the overrides of a trial, without settings that its model does not have."""
        groups = self.groups()
        overrides = [setting.draw(trial) for setting in groups]
        cfg = composed([*self.fixed, *overrides], ())
        others = [setting for setting in self.space if setting not in groups]
        return overrides + [setting.draw(trial) for setting in others if _has(cfg, setting.key)]

    def variants(self) -> Iterator[DictConfig]:
        """Yield the configuration of each combination of config groups."""
        choices = [[f"{group.key}={value}" for value in group.values] for group in self.groups()]
        for chosen in itertools.product(*choices):
            yield composed([*self.fixed, *chosen], ())


def _has(cfg: DictConfig, key: str) -> bool:
    node: Any = cfg
    for part in key.split("."):
        if not OmegaConf.is_dict(node) or part not in node:
            return False
        node = node[part]
    return True


def read_plan(arguments: Sequence[str]) -> Plan:
    """Return the plan described by the command line.

    Raises:
        ConfigError: Lists all invalid settings.
    """
    pairs = dict(argument.partition("=")[::2] for argument in arguments)
    node = _node(pairs)
    texts = {key: str(value) for key, value in (node.pop("space") or {}).items()}
    texts |= {key: text for key, text in pairs.items() if key.split(".")[0] != "tune"}
    settings = {key: read_setting(key, text) for key, text in texts.items()}
    space = [setting for setting in settings.values() if setting]
    if not space:
        raise ConfigError(
            "no settings to tune; set for example 'optimizer.lr=log(1e-4,1e-2)', with the quotes, "
            "or tune=adaptation"
        )
    tuned = {setting.key for setting in space}
    fixed = [f"{k}={text}" for k, text in pairs.items() if k in settings and k not in tuned]
    folder = Path(node.pop("dir") or f"outputs/tune/{run_id()}").expanduser().absolute()
    if problem := folder_problem(folder, "tune.dir"):
        raise ConfigError(problem)
    plan = Plan(folder=folder, fixed=tuple(fixed), space=tuple(space), **node)
    _check_space(plan)
    return plan


def _node(pairs: dict[str, str]) -> dict[str, Any]:
    """Return the study settings, merged from defaults, the selected file and the command line."""
    from tl_lightning.config.hints import describe, fits

    node: Any = OmegaConf.load(CONF / "tune" / "default.yaml")
    name = pairs.get("tune", "default")
    files = {path.stem: path for path in (CONF / "tune").glob("*.yaml")}
    if name not in files:
        raise ConfigError(f"tune={name} is not a file in conf/tune; {nearest(name, files)}")
    typed = [f"{k.removeprefix('tune.')}={v}" for k, v in pairs.items() if k.startswith("tune.")]
    for update in (OmegaConf.load(files[name]), OmegaConf.from_dotlist(typed)):
        for key in map(str, update):
            if key not in node:
                raise ConfigError(f"tune.{key} is not a setting; {nearest(key, map(str, node))}")
        node = OmegaConf.merge(node, update)
    params: dict[str, Any] = dict(OmegaConf.to_container(node))  # type: ignore[arg-type]
    hints = {**typing.get_type_hints(Plan), "dir": str | None, "space": dict}
    problems = [
        f"tune.{key}={value} must be {describe(hints[key])}; set tune.{key}=<value>"
        for key, value in params.items()
        if not fits(value, hints[key])
    ]
    problems += [
        f"tune.{key}={params[key]} must be at least {minimum}; set tune.{key}={minimum} or more"
        for key, minimum in (("trials", 1), ("random_trials", 1), ("prune_after", 0))
        if not problems and params[key] < minimum
    ]
    if problems:
        raise ConfigError(problems)
    return params


def _check_space(plan: Plan) -> None:
    """Raise ConfigError for settings that no model of the study has, and for several devices."""
    variants = list(plan.variants())
    groups = plan.groups()
    for setting in plan.space:
        if setting not in groups and not any(_has(cfg, setting.key) for cfg in variants):
            # Raises an error that suggests similar keys.
            composed([*plan.fixed, f"{setting.key}={setting.values[0]}"], ())
            raise ConfigError(f"{setting.key} is not a setting of any trial; see train.py --help")
    for cfg in variants:
        if (cfg.trainer.devices, cfg.trainer.num_nodes) != (1, 1):
            raise ConfigError(
                f"tune.py runs each trial on one device, but trainer.devices="
                f"{cfg.trainer.devices}; set trainer.devices=1 and start the command once per "
                "device with the same tune.dir"
            )
