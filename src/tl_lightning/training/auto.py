"""Several models on the stored features of one network, and the choice between them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L

from tl_lightning.config.compose import default_node, with_values
from tl_lightning.config.identity import other_settings
from tl_lightning.config.instantiate import find_class
from tl_lightning.config.schema import RunConfig
from tl_lightning.config.validation.check import check
from tl_lightning.config.validation.resolve import allowed_packages
from tl_lightning.errors import ConfigError
from tl_lightning.methods.components.class_sets import WeighsClasses
from tl_lightning.reporting.schema import read_report
from tl_lightning.selection.collapse import WORST
from tl_lightning.training.data_version import check_version
from tl_lightning.training.results import group_of
from tl_lightning.utils.files import write_json
from tl_lightning.utils.text import shorten

__all__ = ["fit_auto"]

#: Number of validations of each trained head.
EPOCHS = 3
PROBES = "probes"
#: Files of the chosen candidate that the report of the run refers to.
_COPIED = ("predictions.npz", "neighbours.npz", "predictions.csv", "metrics.csv")
Train = Callable[..., dict[str, Any]]


def fit_auto(
    run: RunConfig, run_dir: Path, callbacks: tuple[L.Callback, ...], train: Train
) -> dict[str, Any]:
    """Train all candidates and report the one with the best score on the unlabelled target.

    A candidate whose source accuracy is below ``callbacks.validators.min_source_ratio`` of the best
    one's counts as collapsed. Finished candidates are kept when a run is resumed.

    Args:
        run: A checked configuration of :class:`.AutoAdaptation`.
        run_dir: The run's folder; those of the candidates are below it.
        callbacks: Callbacks besides those of the configuration.
        train: Trains one configuration in a folder, see :func:`.fit.fit`.

    Returns:
        The report, as in ``report.json``.

    Raises:
        ConfigError: If the folder contains candidates, and the run is not resumed.
    """
    begin = time.monotonic()
    configs = {PROBES: _probes(run)}
    configs |= {str(name): _head(run, str(name)) for name in run.model.params["candidates"]}
    checked = {name: check(config) for name, config in configs.items()}  # all problems first
    if run.resume is None and (run_dir / "candidates").is_dir():
        raise ConfigError(
            f"{run_dir} contains candidates of an earlier run; set resume=auto to resume it, or "
            "another hydra.run.dir"
        )
    found: list[_Candidate] = []
    for name, config in configs.items():
        folder = run_dir / "candidates" / name
        print(f"candidate {name}", flush=True)
        report = _stored(folder, checked[name]) or _trained(folder, config, train, callbacks)
        found += _candidates(name, folder, report)
    chosen = _best(found)
    report = _report(run, run_dir, chosen, found)
    report["timing"]["total_s"] = time.monotonic() - begin
    write_json(run_dir / "report.json", report)
    return report


@dataclass(frozen=True)
class _Candidate:
    """One of the compared models.

    Attributes:
        name: Name in the report.
        folder: Folder of the run that trained it.
        report: Report of that run.
        score: Its score by the selection rule.
        source: Its accuracy on source validation.
        metrics: Its test metrics.
        kept: Whether it is the model that its run kept.
    """

    name: str
    folder: Path
    report: dict[str, Any]
    score: float
    source: float
    metrics: Mapping[str, float]
    kept: bool

    @property
    def ratio(self) -> float:
        """``callbacks.validators.min_source_ratio`` of its run."""
        return float(self.report["config"]["callbacks"]["validators"]["min_source_ratio"])


def _stored(folder: Path, run: RunConfig) -> dict[str, Any] | None:
    """Return the report of a finished candidate, or None if it has to be trained or resumed.

    Raises:
        ConfigError: If it was trained with other settings.
    """
    if not (folder / "report.json").is_file():
        return None
    report: dict[str, Any] = read_report(folder)
    if other := other_settings(report["config"], run.stored):
        raise ConfigError(
            f"{folder} was trained with different settings: {shorten(other, 4, '; ')}; use the "
            "same settings to resume, or another hydra.run.dir"
        )
    check_version(report, run, folder)
    return report


def _trained(
    folder: Path, config: Mapping[str, Any], train: Train, callbacks: tuple[L.Callback, ...]
) -> dict[str, Any]:
    started = any((folder / "checkpoints").glob("*.ckpt"))
    config = with_values(config, {"resume": "auto" if started else None})
    return train(config, folder, callbacks=callbacks)


def _candidates(name: str, folder: Path, report: dict[str, Any]) -> list[_Candidate]:
    """Return the models of a run: both probes, or the trained one."""
    selection, start = report["selection"], report["start"]
    if name != PROBES:
        score, source = float(selection["value"]), float(selection["source_val"])
        return [_Candidate(name, folder, report, score, source, report["metrics"], kept=True)]
    return [
        _Candidate(
            one["name"], folder, report, one["scores"][selection["monitor"]],
            one["scores"]["validator/source_val"], one["metrics"], one["name"] == start["chosen"],
        )
        for one in start["candidates"]
    ]  # fmt: skip


def _best(found: list[_Candidate]) -> _Candidate:
    """Return the candidate with the best score that has not collapsed on the source."""
    most = max(one.source for one in found)
    kept = [one for one in found if one.kept]
    return max(
        kept, key=lambda one: one.score if one.source >= one.ratio * most else WORST + one.source
    )


def _report(
    run: RunConfig, run_dir: Path, chosen: _Candidate, found: list[_Candidate]
) -> dict[str, Any]:
    """Copy the files of the chosen candidate, and return the report with all candidates."""
    selection = chosen.report["selection"]
    checkpoint = run_dir / "checkpoints" / Path(selection["checkpoint"]).name
    files = {chosen.folder / selection["checkpoint"]: checkpoint}
    files |= {chosen.folder / name: run_dir / name for name in _COPIED}
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    for source, target in files.items():
        if source.is_file():
            draft = target.with_name(f"{target.name}.tmp")
            shutil.copyfile(source, draft)
            draft.replace(target)
    monitor = selection["monitor"]
    rows = [
        {"name": one.name, "scores": {monitor: one.score}, "metrics": one.metrics} for one in found
    ]
    return {
        **chosen.report,
        "name": run.name,
        "group": group_of(run),
        "config": run.stored,
        "selection": {**selection, "checkpoint": str(checkpoint.relative_to(run_dir))},
        "start": {"chosen": chosen.name, "candidates": rows, "complete": True},
        "notes": [
            f"{chosen.name} was chosen among {len(found)} models by {selection['rule']}: "
            f"{selection['description']}", *chosen.report["notes"],
        ],
    }  # fmt: skip


def _probes(run: RunConfig) -> dict[str, Any]:
    """Return the configuration of a run that only fits the probes: one step at a rate of 0."""
    return _on_features(run, PROBES, list(run.methods), 1, {
        "head_init": "probe", "optimizer.lr": 0.0, "trainer.max_epochs": 1,
    })  # fmt: skip


def _head(run: RunConfig, name: str) -> dict[str, Any]:
    """Return the configuration of a trained head."""
    params = run.model.params
    return _on_features(run, name, name.split("+"), -(-params["steps"] // EPOCHS), {
        "head_init": "random", "head.bottleneck": params["bottleneck"],
        "optimizer.lr": params["head_lr"], "trainer.max_epochs": EPOCHS,
    })  # fmt: skip


def _on_features(
    run: RunConfig, name: str, methods: list[str], steps: int, values: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the configuration of a candidate, which trains a head on stored features."""
    plain: Mapping[str, Any] = run.plain
    model = {"_target_": "tl_lightning.models.DomainAdaptation", "name": name}
    head = {"from": 0, "train": ["head"], "lr": None, "lr_factor": None}
    parts: dict[str, Any] = {
        "model": {**model, "forward": plain["model"]["forward"], "relative_bn": False},
        "method": {name: _method(run, name) for name in methods},
        "optimizer": default_node("optimizer", "adam"),
        "scheduler": default_node("scheduler", "cosine"),
        "phases": {**default_node("phases", "none"), "steps": [head]},
        "baselines": [],
        "resume": None,
    }
    data = {"augment": "none", "mixup_alpha": 0.0, "cutmix_alpha": 0.0, "transform": None}
    shared = {f"data.{key}": value for key, value in data.items() if key in plain["data"]}
    shared |= {"data.steps_per_epoch": steps, "cache.features": "full", "cache.views": None}
    shared |= {"trainer.max_steps": -1}
    if any(_weighs_classes(run, node) for node in parts["method"].values()):
        shared["callbacks.validators.min_source_ratio"] = "auto"  # other than that of the run
    return dict(with_values({**plain, **parts}, {**shared, **values}))


def _weighs_classes(run: RunConfig, node: Mapping[str, Any]) -> bool:
    cls, _ = find_class(str(node["_target_"]), "method", allowed_packages(run.plain))
    return cls is not None and issubclass(cls, WeighsClasses)


def _method(run: RunConfig, name: str) -> dict[str, Any]:
    """Return the settings of a method: those of the run, if it has it, or the defaults."""
    node = {**(run.plain["method"].get(name) or default_node("method", name))}
    # Without batch norm to adapt, the backbone is used as it is.
    return node | {"required": False} if "required" in node else node
