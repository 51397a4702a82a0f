"""A study of settings: draws a trial, trains it, tells the others."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

from tl_lightning.config.compose import as_dict, composed
from tl_lightning.config.validation.check import check
from tl_lightning.errors import ConfigError, TransferError
from tl_lightning.reporting.console import console, report_folder
from tl_lightning.reporting.run.page import write_page
from tl_lightning.selection.rules import SELECTIONS
from tl_lightning.sweeps.baselines import going_on
from tl_lightning.sweeps.jobs import begin, finished, note_failure
from tl_lightning.sweeps.tuning.plan import Plan
from tl_lightning.sweeps.tuning.pruning import Pruned, Pruning
from tl_lightning.training.fit import fit
from tl_lightning.utils.console import complain
from tl_lightning.utils.files import held
from tl_lightning.utils.signals import Interrupted

__all__ = ["judged", "with_rule", "work"]

#: So many failures one after the other are no accident.
_TOO_MANY = 3


def work(plan: Plan) -> None:
    """Run trials until the study has as many as it shall; print what was best.

    Several processes may do so on one study, and a study goes on where it was: a trial whose
    process has died is taken over from its last checkpoint.

    Raises:
        ConfigError: If the study cannot be begun, or was begun with other settings.
        TransferError: What three trials one after the other failed with.
    """
    plan = with_rule(plan)
    study = _opened(plan)
    failed = 0
    try:
        while True:
            with contextlib.ExitStack() as until_it_ends:
                trial = _taken(study, plan, until_it_ends)
                if trial is None:
                    break
                error = _run(study, trial, plan)
            failed = failed + 1 if error else 0
            if error and failed >= _TOO_MANY:
                raise error
    except (KeyboardInterrupt, Interrupted) as end:
        print(f"interrupted; go on with tune.dir={plan.folder}", file=sys.stderr, flush=True)
        sys.exit(130 if isinstance(end, KeyboardInterrupt) else end.code)
    _conclude(study, plan)


def with_rule(plan: Plan) -> Plan:
    """Return the plan with the figure that its trials are compared by.

    By default the one that the selection rule watches, which reads no label of the target.

    Raises:
        ConfigError: If there is none, if its trials' models have different ones, or if it reads
            labels that a study may not see.
    """
    checked = [check(cfg) for cfg in plan.variants()]
    rules = {config["selection"] for config in checked}
    if len(rules) > 1 and plan.metric is None:
        raise ConfigError(
            f"the models of this study are chosen by different rules ({', '.join(sorted(rules))}), "
            "whose figures do not compare; type selection=source_val, or one of the others"
        )
    rule = SELECTIONS[sorted(rules)[0]]
    if rule.monitor is None and plan.metric is None:
        if any(one.startswith("selection=") for one in plan.fixed):
            raise ConfigError(
                "selection=last compares no epochs and so no trials; type selection=source_val, or "
                "tune.metric=<a logged value>"
            )
        return with_rule(replace(plan, fixed=(*plan.fixed, "selection=source_val")))
    metric = plan.metric or str(rule.monitor)
    reads_labels = metric.startswith("target/") and metric not in _WITHOUT_LABELS
    if "/test/" in metric:
        raise ConfigError(
            f"tune.metric={metric} is a figure of the test, which decides nothing; type "
            "tune.metric=source/val/acc"
        )
    if reads_labels and rules != {"oracle"}:
        raise ConfigError(
            f"tune.metric={metric} reads labels of the target, which is taken to have none; type "
            "selection=oracle for an upper bound that says so, or tune.metric=source/val/acc"
        )
    return plan


#: All else of the target needs labels, also what a further task calls its figures.
_WITHOUT_LABELS = ("target/val/entropy", "target/val/im")


def _compared(plan: Plan, config: dict[str, Any]) -> tuple[str, str]:
    rule = SELECTIONS[config["selection"]]
    return (plan.metric, plan.mode) if plan.metric else (str(rule.monitor), rule.mode)


def _opened(plan: Plan) -> Any:
    try:
        import optuna
    except ImportError:
        raise ConfigError("tune.py needs Optuna; type pip install 'tl_lightning[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    plan.folder.mkdir(parents=True, exist_ok=True)
    metric, mode = _compared(plan, check(next(plan.variants())))
    pruner = optuna.pruners.MedianPruner(
        n_startup_trials=plan.random_trials, n_warmup_steps=plan.prune_after
    )
    with _turn(plan.folder):
        study = optuna.create_study(
            storage=plan.storage or f"sqlite:///{plan.folder}/study.db",
            study_name=plan.folder.name,
            direction="maximize" if mode == "max" else "minimize",
            pruner=pruner if plan.prune == "median" else optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
        space = [f"{one.key}={one.kind}({','.join(one.values)})" for one in plan.space]
        tried = json.dumps([sorted(plan.fixed), sorted(space), metric, mode])
        before = study.user_attrs.get("tried", tried)
        if before != tried:
            raise ConfigError(
                f"tune.dir={plan.folder} holds a study of other settings: {before}, now {tried}; "
                "type another tune.dir"
            )
        study.set_user_attr("tried", tried)
    return study


@contextlib.contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Wait until no other process of the study draws."""
    while True:
        with held(folder / ".turn") as mine:
            if mine:
                yield
                return
        time.sleep(0.1)


def _taken(study: Any, plan: Plan, until_it_ends: contextlib.ExitStack) -> Any:
    """Return a trial whose process died, or a new one, with its folder held; None: all are there.

    A study that is started again draws what it would have drawn.
    """
    from optuna.samplers import RandomSampler, TPESampler
    from optuna.trial import Trial, TrialState

    with _turn(plan.folder):
        for old in study.get_trials(states=(TrialState.RUNNING,)):
            folder = old.user_attrs.get("folder")
            if folder is None:  # it died before it was drawn
                study.tell(old.number, state=TrialState.FAIL)
            elif os.path.isdir(folder) and until_it_ends.enter_context(held(Path(folder))):
                print(f"trial {old.number}: goes on", flush=True)
                return Trial(study, old._trial_id)
        states = [old.state for old in study.get_trials(deepcopy=False)]
        if len(states) - states.count(TrialState.FAIL) >= plan.trials:
            return None
        seed = plan.seed * 1_000_003 + len(states)
        study.sampler = (
            RandomSampler(seed=seed)
            if plan.sampler == "random"
            else TPESampler(seed=seed, n_startup_trials=plan.random_trials, constant_liar=True)
        )
        trial = study.ask()
        overrides = plan.drawn(trial)
        name = composed([*plan.fixed, *overrides], ()).model.name
        folder = plan.folder / f"{trial.number:04d}-{name}"
        trial.set_user_attr("overrides", overrides)
        trial.set_user_attr("folder", str(folder))
        until_it_ends.enter_context(held(folder))
    return trial


def judged(trial: Any) -> Callable[[float, int], bool]:
    """Return what reports a trial's figures and says whether it ends.

    A run that goes on from a checkpoint comes by some epochs again.
    """
    known = set(trial.study.trials[trial.number].intermediate_values)

    def judge(value: float, epoch: int) -> bool:
        if epoch not in known:
            known.add(epoch)
            trial.report(value, epoch)
        return bool(trial.should_prune())

    return judge


def _run(study: Any, trial: Any, plan: Plan) -> TransferError | None:
    """Train a trial and tell the study; return what it failed with."""
    from optuna.trial import TrialState

    attributes = trial.user_attrs
    folder, overrides = Path(attributes["folder"]), attributes["overrides"]
    said = " ".join(overrides)
    try:
        config = as_dict(composed([*plan.fixed, *overrides], ()))
        metric, mode = _compared(plan, check(config))
        report = finished(folder, config)
        begin(folder, config)
        if report is None:
            watching = [Pruning(metric=metric, judge=judged(trial))]
            report = fit(going_on(config, folder), folder, watching=watching)
        write_page(folder)
        seen = study.trials[trial.number].intermediate_values.values()
        best = max(seen, default=None) if mode == "max" else min(seen, default=None)
        value = best if plan.metric else report["selection"]["value"]
        if value is None:
            raise ConfigError(
                f"tune.metric={metric} was logged by no validation; the columns of "
                f"{folder}/metrics.csv are what there is"
            )
    except TransferError as error:
        pruned = isinstance(error, Pruned)
        note_failure(folder, str(error), overrides)
        study.tell(trial, state=TrialState.PRUNED if pruned else TrialState.FAIL)
        if not pruned:
            complain(error)
        print(f"trial {trial.number}: {error if pruned else 'failed'} ({said})", flush=True)
        return None if pruned else error
    study.tell(trial, value)
    print(f"trial {trial.number}: {metric} {value:.4g} ({said})", flush=True)
    return None


def _conclude(study: Any, plan: Plan) -> None:
    """Print the best trials, what to type for the best one, and the table of all."""
    from optuna.trial import TrialState

    done = [one for one in study.trials if one.state == TrialState.COMPLETE]
    states = [one.state for one in study.trials]
    if done:
        report_folder(plan.folder, as_sweep=True)
    print(
        f"{len(done)} trial(s) finished, {states.count(TrialState.PRUNED)} stopped early, "
        f"{states.count(TrialState.FAIL)} failed, {states.count(TrialState.RUNNING)} still running"
    )
    if not done:
        return
    up = study.direction.name == "MAXIMIZE"
    done.sort(key=lambda one: -one.value if up else one.value)
    table = Table(title="best trials", title_justify="left")
    for column in ("trial", "value", "settings"):
        table.add_column(column)
    for one in done[:5]:
        table.add_row(str(one.number), f"{one.value:.4g}", " ".join(one.user_attrs["overrides"]))
    console().print(table)
    words = [*plan.fixed, *done[0].user_attrs["overrides"]]
    print(f"best: python scripts/train.py {shlex.join(words)}", flush=True)
