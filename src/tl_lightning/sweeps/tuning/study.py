"""Hyperparameter study: sample a trial, train it, and report its result to Optuna."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from tl_lightning.config.compose import as_dict, composed
from tl_lightning.config.schema import RunConfig
from tl_lightning.config.validation.check import check
from tl_lightning.errors import ConfigError, DataError, TransferError
from tl_lightning.reporting.console import console, report_folder
from tl_lightning.reporting.run.page import write_page
from tl_lightning.selection.rules import rule_of
from tl_lightning.sweeps.baselines import resuming
from tl_lightning.sweeps.jobs import begin, finished, note_failure
from tl_lightning.sweeps.tuning.plan import Plan
from tl_lightning.sweeps.tuning.pruning import Pruned, Pruning
from tl_lightning.sweeps.tuning.space import StoredTrial
from tl_lightning.training.data_version import current_fingerprint
from tl_lightning.training.fit import fit
from tl_lightning.utils.console import on_problem, typed
from tl_lightning.utils.files import run_lock
from tl_lightning.utils.signals import Interrupted
from tl_lightning.utils.text import masked

__all__ = ["pruning_rule", "with_rule", "work"]

#: Number of consecutive failures after which the study is stopped.
_MAX_FAILURES = 3


def work(plan: Plan) -> None:
    """Run trials until the study has the requested number; print the best ones.

    Several processes can work on the same study. A restarted study is continued: trials whose
    process has died are resumed from their last checkpoint.

    Raises:
        ConfigError: If the study cannot be created, or was created with different settings.
        DataError: If the stored study is damaged, or its server does not answer.
        TransferError: The error of the last trial, if three trials in a row have failed.
    """
    plan = with_rule(plan)
    with _readable(plan):
        study = _open(plan)
    failed = 0
    try:
        while True:
            with contextlib.ExitStack() as stack:
                with _readable(plan):
                    trial = _next_trial(study, plan, stack)
                if trial is None:
                    break
                error = _run(study, trial, plan)
            failed = failed + 1 if error else 0
            if error and failed >= _MAX_FAILURES:
                raise error
    except (KeyboardInterrupt, Interrupted) as end:
        print(f"interrupted; resume with tune.dir={plan.folder}", file=sys.stderr, flush=True)
        sys.exit(130 if isinstance(end, KeyboardInterrupt) else end.code)
    _print_summary(study, plan)


def with_rule(plan: Plan) -> Plan:
    """Return the plan with a selection rule that defines the metric for comparing trials.

    The default metric is the one monitored by the selection rule, which uses no target labels.

    Raises:
        ConfigError: If no metric is defined, if it differs between the models of the study, or if
            it uses labels that must not be used for tuning.
    """
    runs = [check(cfg) for cfg in plan.variants()]
    rules = {run.selection for run in runs}
    if len(rules) > 1 and plan.metric is None:
        raise ConfigError(
            f"the models of this study use different selection rules ({', '.join(sorted(rules))}), "
            "whose metrics cannot be compared; set selection=source_val, or another single rule"
        )
    rule = rule_of(sorted(rules)[0], runs[0].task.kind)
    if rule.monitor is None and plan.metric is None:
        if any(override.startswith("selection=") for override in plan.fixed):
            raise ConfigError(
                "selection=last has no metric to compare trials by; set selection=source_val, or "
                "tune.metric=<name of a logged metric>"
            )
        return with_rule(replace(plan, fixed=(*plan.fixed, "selection=source_val")))
    if plan.metric is None and str(rule.monitor).endswith("/val/loss"):
        # Settings of the loss, such as loss.delta, change its scale.
        name, mode = _WITHOUT_CLASSES[runs[0].task.kind]
        domain = str(rule.monitor).partition("/")[0]
        plan = replace(plan, metric=f"{domain}/val/{name}", mode=mode)
    metric = plan.metric or str(rule.monitor)
    instead = f"source/val/{_WITHOUT_CLASSES.get(runs[0].task.kind, ('acc', 'max'))[0]}"
    if plan.metric and plan.mode == "max" and metric.rpartition("/")[2].startswith(_ERRORS):
        raise ConfigError(
            f"tune.metric={metric} is better if it is lower, but tune.mode=max; set tune.mode=min"
        )
    reads_labels = metric.startswith("target/") and metric not in _WITHOUT_LABELS
    if "/test/" in metric:
        raise ConfigError(
            f"tune.metric={metric} is a test metric, which must not be used for tuning; set "
            f"tune.metric={instead}"
        )
    if reads_labels and rules != {"oracle"}:
        raise ConfigError(
            f"tune.metric={metric} uses target labels, which are assumed to be unavailable; set "
            f"selection=oracle to compute an upper bound, or tune.metric={instead}"
        )
    return plan


#: Metric and mode of tasks whose selection rules compare losses.
_WITHOUT_CLASSES: dict[str, tuple[str, Literal["max", "min"]]] = {
    "regression": ("mae", "min"), "multi_label": ("f1", "max"),
}  # fmt: skip
#: How the names of metrics begin of which lower is better.
_ERRORS = ("mae", "rmse", "loss")
#: All other target metrics need labels, also those of auxiliary tasks.
_WITHOUT_LABELS = ("target/val/entropy", "target/val/im")


def _metric(plan: Plan, run: RunConfig) -> tuple[str, str]:
    rule = rule_of(run.selection, run.task.kind)
    return (plan.metric, plan.mode) if plan.metric else (str(rule.monitor), rule.mode)


def _open(plan: Plan) -> Any:
    try:
        import optuna
    except ImportError:
        raise ConfigError("tune.py needs Optuna; run pip install 'tl_lightning[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    plan.folder.mkdir(parents=True, exist_ok=True)
    metric, mode = _metric(plan, check(next(plan.variants())))
    pruner = optuna.pruners.MedianPruner(
        n_startup_trials=plan.random_trials, n_warmup_steps=plan.prune_after
    )
    with _lock(plan.folder):
        study = optuna.create_study(
            storage=plan.storage or f"sqlite:///{plan.folder}/study.db",
            study_name=plan.folder.name,
            direction="maximize" if mode == "max" else "minimize",
            pruner=pruner if plan.prune == "median" else optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
        space = [f"{s.key}={s.kind}({','.join(s.values)})" for s in plan.space]
        settings = json.dumps([sorted(plan.fixed), sorted(space), metric, mode])
        previous = study.user_attrs.get("tried", settings)
        if previous != settings:
            raise ConfigError(
                f"tune.dir={plan.folder} contains a study with different settings: {previous}, now "
                f"{settings}; set another tune.dir"
            )
        study.set_user_attr("tried", settings)
        now = current_fingerprint(check(next(plan.variants())))
        if study.user_attrs.get("data", now) != now:
            raise ConfigError(
                f"tune.dir={plan.folder} contains trials on other data: samples, labels or file "
                "sizes have changed since, so that new trials cannot be compared with them; set "
                "another tune.dir, or restore the data"
            )
        study.set_user_attr("data", now)
    return study


@contextlib.contextmanager
def _readable(plan: Plan) -> Iterator[None]:
    """Report a study that is damaged, or whose server does not answer."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, TransferError):
            raise
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"the study in {masked(plan.storage) if plan.storage else plan.folder} cannot be read "
            f"({reason}); set another tune.dir, or restore an intact copy of study.db"
        ) from error


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Wait for the lock of the study, so that only one process samples a trial at a time."""
    while True:
        with run_lock(folder / ".turn") as acquired:
            if acquired:
                yield
                return
        time.sleep(0.1)


def _next_trial(study: Any, plan: Plan, stack: contextlib.ExitStack) -> Any:
    """Return an orphaned or new trial with its folder locked, or None if the study is complete.

    The sampler is seeded by the number of trials, so that a restarted study samples the same
    settings as an uninterrupted one.
    """
    from optuna.trial import Trial, TrialState

    with _lock(plan.folder):
        for old in study.get_trials(states=(TrialState.RUNNING,)):
            if not old.user_attrs.get("sampled"):  # its process died before that
                study.tell(old.number, state=TrialState.FAIL)
                continue
            folder = _folder(plan, old, _overrides(plan, old))
            if folder.is_dir() and stack.enter_context(run_lock(folder)):
                print(f"trial {old.number}: resumed", flush=True)
                return Trial(study, old._trial_id)
        states = [old.state for old in study.get_trials(deepcopy=False)]
        if len(states) - states.count(TrialState.FAIL) >= plan.trials:
            return None
        study.sampler = _sampler(plan, len(states))
        queued = TrialState.WAITING in states
        trial = study.ask() if queued else _draft(study)
        try:
            overrides = plan.drawn(trial)
        except ValueError as error:  # of values that somebody has queued
            raise ConfigError(
                f"trial {trial.number} of the study in {plan.folder} has values that are not in "
                f"the search space of this command ({error}); set another tune.dir"
            ) from error
        stack.enter_context(run_lock(_folder(plan, trial, overrides)))
        if queued:
            trial.set_user_attr("sampled", True)
            return trial
        return _added(study, trial)


def _sampler(plan: Plan, number: int) -> Any:
    from optuna.samplers import RandomSampler, TPESampler

    seed = plan.seed * 1_000_003 + number
    if plan.sampler == "random":
        return RandomSampler(seed=seed)
    return TPESampler(seed=seed, n_startup_trials=plan.random_trials, constant_liar=True)


def _draft(study: Any) -> Any:
    """Return the next trial of a copy of the study in memory, to sample its values.

    If the process dies before they are all known, the study does not contain half a trial, which
    would be counted as a failed one and change the numbers and values of all later ones.
    """
    import optuna

    copy = optuna.create_study(direction=study.direction, sampler=study.sampler)
    copy.add_trials(study.get_trials(deepcopy=False))
    return copy.ask()


def _added(study: Any, draft: Any) -> Any:
    """Add a sampled trial to the study, in a single transaction."""
    from optuna.trial import Trial, TrialState, create_trial

    sampled = create_trial(
        state=TrialState.RUNNING, params=draft.params, distributions=draft.distributions,
        user_attrs={"sampled": True},
    )  # fmt: skip
    return Trial(study, study._storage.create_new_trial(study._study_id, sampled))


def _overrides(plan: Plan, trial: Any) -> list[str]:
    """Return the overrides of a trial, from its sampled values and the plan of this command."""
    return plan.drawn(StoredTrial(trial.params))


def _folder(plan: Plan, trial: Any, overrides: Sequence[str]) -> Path:
    """Return the run folder of a trial."""
    name = composed([*plan.fixed, *overrides], ()).model.name
    return plan.folder / f"{trial.number:04d}-{name}"


def pruning_rule(trial: Any) -> Callable[[float, int], bool]:
    """Return a function that reports a value to Optuna and returns whether to prune the trial.

    A resumed run may repeat epochs that were reported already; they are reported only once.
    """
    known = set(trial.study.trials[trial.number].intermediate_values)

    def judge(value: float, epoch: int) -> bool:
        if epoch not in known:
            known.add(epoch)
            trial.report(value, epoch)
        return bool(trial.should_prune())

    return judge


def _run(study: Any, trial: Any, plan: Plan) -> TransferError | None:
    """Train a trial and report it to the study; return the error if it failed."""
    from optuna.trial import TrialState

    overrides = _overrides(plan, trial)
    folder = _folder(plan, trial, overrides)
    settings = " ".join(overrides)
    try:
        config = as_dict(composed([*plan.fixed, *overrides], ()))
        run = check(config)
        metric, mode = _metric(plan, run)
        report = finished(folder, config)
        begin(folder, config)
        if report is None:
            callbacks = [Pruning(metric=metric, judge=pruning_rule(trial))]
            report = fit(resuming(config, folder, run.resume), folder, callbacks=callbacks)
        write_page(folder)
        reported = study.trials[trial.number].intermediate_values.values()
        best = max(reported, default=None) if mode == "max" else min(reported, default=None)
        value = best if plan.metric else report["selection"]["value"]
        if value is None:
            raise ConfigError(
                f"tune.metric={metric} was never logged after a validation; set it to a column of "
                f"{folder}/metrics.csv"
            )
    except TransferError as error:
        pruned = isinstance(error, Pruned)
        note_failure(folder, str(error), overrides)
        study.tell(trial, state=TrialState.PRUNED if pruned else TrialState.FAIL)
        if not pruned:
            on_problem(error)
        print(f"trial {trial.number}: {error if pruned else 'failed'} ({settings})", flush=True)
        return None if pruned else error
    study.tell(trial, value)
    print(f"trial {trial.number}: {metric} {value:.4g} ({settings})", flush=True)
    return None


def _print_summary(study: Any, plan: Plan) -> None:
    """Print the table of all trials, the best ones, and the command of the best one."""
    from optuna.trial import TrialState

    done = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    states = [trial.state for trial in study.trials]
    if done:
        report_folder(plan.folder, as_sweep=True)
    print(
        f"{len(done)} trial(s) finished, {states.count(TrialState.PRUNED)} stopped early, "
        f"{states.count(TrialState.FAIL)} failed, {states.count(TrialState.RUNNING)} still running"
    )
    if not done:
        return
    maximize = study.direction.name == "MAXIMIZE"
    done.sort(key=lambda trial: -trial.value if maximize else trial.value)
    table = Table(title="best trials", title_justify="left")
    for column in ("trial", "value", "settings"):
        table.add_column(column)
    for trial in done[:5]:
        settings = " ".join(_overrides(plan, trial))
        table.add_row(str(trial.number), f"{trial.value:.4g}", settings)
    console().print(table)
    overrides = [*plan.fixed, *_overrides(plan, done[0])]
    print(f"best: {typed('python scripts/train.py')} {shlex.join(overrides)}", flush=True)
