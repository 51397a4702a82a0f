"""Baselines beside an adapted model, trained with the same seed, data, steps and settings."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tl_lightning import pipeline

__all__ = ["baseline", "fit_with_baselines", "wanted"]

_SOURCE_ONLY = {"_target_": "tl_lightning.modules.FineTuning", "name": "source_only"}


def wanted(config: Mapping[str, Any], sweeping: bool) -> list[str]:
    """Return the names of the baselines that this job trains besides its own model.

    ``bracket=auto`` adds ``joint_bn`` to an adapted model in a sweep. What the sweep itself runs
    (``model=source_only,dann``) is not run again beside each of its jobs. On several devices there
    are none, because each training starts processes of its own; a line says so.
    """
    if not config["adapter"]:
        return []
    auto = ["joint_bn"] if sweeping else []
    names = auto if config["bracket"] == "auto" else list(config["bracket"])
    swept = next((a for a in sys.argv if a.startswith("model=")), "") if sweeping else ""
    names = [name for name in names if name not in swept.removeprefix("model=").split(",")]
    if names and str(config["trainer"]["devices"]) != "1":
        print(
            f"no baselines beside {config['model']['name']}: several devices train one model a "
            f"process; type -m model={','.join(names)},{config['model']['name']} instead"
        )
        return []
    return names


def baseline(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the configuration of the baseline ``name`` of an adapted run.

    ``joint_bn`` only takes the adapters away: batch norm still sees both domains. ``source_only``
    also takes the target's pictures away from training.
    """
    out = copy.deepcopy(dict(config))
    out["adapter"] = {}
    out["bracket"] = []
    if name == "source_only":
        out["model"] = dict(_SOURCE_ONLY)
    else:
        out["model"]["name"] = name
    return out


def fit_with_baselines(cfg: DictConfig, folder: Path, sweeping: bool) -> dict[str, Any]:
    """Fit the model of ``cfg`` and its baselines below ``folder/bracket``; return its report."""
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    names = wanted(pipeline.check(config), sweeping)
    report = pipeline.fit(config, folder)
    for name in names:
        print(f"baseline {name} beside {config['model']['name']}, seed {config['seed']}")
        pipeline.fit(baseline(config, name), folder / "bracket" / name, config["model"]["name"])
    return report
