"""What a tuning command asks for: the search space and the study."""

from __future__ import annotations

import itertools
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from tl_lightning.config.compose import composed
from tl_lightning.config.paths import CONF
from tl_lightning.errors import ConfigError, nearest
from tl_lightning.sweeps.tuning.space import Setting, Trial, read_setting
from tl_lightning.utils.run_id import run_id

__all__ = ["Plan", "read_plan"]


@dataclass(frozen=True)
class Plan:
    """What a study tries; see ``conf/tune/default.yaml``.

    Attributes:
        folder: Of the study.
        fixed: Overrides that every trial shares.
        space: Settings to try.
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
        """Return the settings that choose a file of ``conf/``: they decide which others exist."""
        return [one for one in self.space if (CONF / one.key).is_dir()]

    def drawn(self, trial: Trial) -> list[str]:
        """Return a trial's own overrides; settings that its model does not have are left out."""
        found = [one.draw(trial) for one in self.groups()]
        cfg = composed([*self.fixed, *found], ())
        rest = [one for one in self.space if one not in self.groups() and _has(cfg, one.key)]
        return found + [one.draw(trial) for one in rest]

    def variants(self) -> Iterator[DictConfig]:
        """Yield the configuration of every choice of files."""
        choices = [[f"{one.key}={value}" for value in one.values] for one in self.groups()]
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
    """Return what the command line asks for.

    Raises:
        ConfigError: Lists every fault found.
    """
    pairs = dict(argument.partition("=")[::2] for argument in arguments)
    node = _node(pairs)
    listed = {key: str(value) for key, value in (node.pop("space") or {}).items()}
    listed |= {key: text for key, text in pairs.items() if key.split(".")[0] != "tune"}
    settings = {key: read_setting(key, text) for key, text in listed.items()}
    fixed = [f"{key}={text}" for key, text in pairs.items() if key in settings]
    space = [one for one in settings.values() if one]
    if not space:
        raise ConfigError(
            "nothing to try; type 'optimizer.lr=log(1e-4,1e-2)' with its quotes, or tune=adaptation"
        )
    tried = {one.key for one in space}
    fixed = [one for one in fixed if one.partition("=")[0] not in tried]
    folder = Path(node.pop("dir") or f"outputs/tune/{run_id()}").expanduser().absolute()
    plan = Plan(folder=folder, fixed=tuple(fixed), space=tuple(space), **node)
    _check_space(plan)
    return plan


def _node(pairs: dict[str, str]) -> dict[str, Any]:
    """Return the settings of the study: the default's, the named file's, the command line's."""
    from tl_lightning.config.signatures import fits, words

    node: Any = OmegaConf.load(CONF / "tune" / "default.yaml")
    name = pairs.get("tune", "default")
    files = {path.stem: path for path in (CONF / "tune").glob("*.yaml")}
    if name not in files:
        raise ConfigError(f"tune={name} is no file of conf/tune; {nearest(name, files)}")
    own = [f"{k.removeprefix('tune.')}={v}" for k, v in pairs.items() if k.startswith("tune.")]
    for more in (OmegaConf.load(files[name]), OmegaConf.from_dotlist(own)):
        for key in map(str, more):
            if key not in node:
                raise ConfigError(f"tune.{key} is no setting; {nearest(key, map(str, node))}")
        node = OmegaConf.merge(node, more)
    found: dict[str, Any] = dict(OmegaConf.to_container(node))  # type: ignore[arg-type]
    hints = {**typing.get_type_hints(Plan), "dir": str | None, "space": dict}
    faults = [
        f"tune.{key}={value} is not {words(hints[key])}; type tune.{key}=<value>"
        for key, value in found.items()
        if not fits(value, hints[key])
    ]
    faults += [
        f"tune.{key}={found[key]} is no number of them; type tune.{key}={least} or more"
        for key, least in (("trials", 1), ("random_trials", 1), ("prune_after", 0))
        if not faults and found[key] < least
    ]
    if faults:
        raise ConfigError(faults)
    return found


def _check_space(plan: Plan) -> None:
    """Refuse settings that no model of the study has, and what no trial could train."""
    variants = list(plan.variants())
    groups = plan.groups()
    for one in plan.space:
        if one not in groups and not any(_has(cfg, one.key) for cfg in variants):
            composed([*plan.fixed, f"{one.key}={one.values[0]}"], ())  # says what it has instead
            raise ConfigError(f"{one.key} is no setting of any trial; see train.py --help")
    for cfg in variants:
        if (cfg.trainer.devices, cfg.trainer.num_nodes) != (1, 1):
            raise ConfigError(
                f"tune.py trains a trial in its own process, but trainer.devices="
                f"{cfg.trainer.devices}; type trainer.devices=1 and start the command once for "
                "each device, with one tune.dir"
            )
