"""Hyperparameter search: search space, metrics, pruning and resuming of a study."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from conftest import TINY
from helpers import stopped_at
from tl_lightning.config.compose import as_dict
from tl_lightning.config.paths import CONF
from tl_lightning.config.validation.check import check
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.reporting.sweep.page import collect
from tl_lightning.sweeps.tuning import study as tuning
from tl_lightning.sweeps.tuning.plan import Plan, read_plan
from tl_lightning.sweeps.tuning.pruning import Pruned, Pruning
from tl_lightning.sweeps.tuning.space import Setting, StoredTrial, read_setting
from tl_lightning.sweeps.tuning.study import with_rule, work
from tl_lightning.utils.files import run_lock
from tl_lightning.utils.signals import Interrupted

SMALL = [one for one in TINY if not one.startswith(("selection", "baselines"))]
RATE = "optimizer.lr=log(1e-4,1e-2)"


def plan(*arguments: str) -> Plan:
    return read_plan([*SMALL, *arguments])


@pytest.mark.parametrize(("text", "message"), [
    ("log(0,1)", r"x=log\(0,1\) must have a positive lower bound, got 0; set .* x=log\(1e-4"),
    ("uniform(1)", r"must have two numeric bounds"), ("uniform(a,b)", r"must have two numeric"),
    ("log(1e-2,1e-4)", r"bounds of x=log\(1e-2,1e-4\) must be increasing finite numbers"),
    ("int(1,2.5)", r"increasing integers; set .* x=int\(1,8\)"), ("uniform(0,inf)", r"finite"),
    ("choice(a)", r"x=choice\(a\) must have at least two distinct choices; set x=choice\(<a>"),
    ("choice(a,a)", r"two distinct choices"), ("choice(a,)", r"two distinct choices"),
])  # fmt: skip
def test_invalid_bounds_are_rejected(text, message) -> None:
    with pytest.raises(ConfigError, match=message):
        read_setting("x", text)


def test_plain_value_is_not_tuned() -> None:
    assert all(read_setting("x", text) is None for text in ("0.1", "[a,b]", "log", "${log:1}"))


class FakeTrial:
    """Trial that records its calls."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def suggest_float(self, *args: Any, log: bool) -> float:
        self.calls.append((*args, log))
        return 0.00123456789

    def suggest_int(self, *args: Any) -> int:
        self.calls.append(args)
        return 3

    def suggest_categorical(self, *args: Any) -> str:
        self.calls.append(args)
        return str(args[1][-1])


def test_sampled_settings_are_overrides() -> None:
    trial = FakeTrial()
    overrides = [
        setting.draw(trial)
        for setting in (read_setting("a", "log(1e-4,1)"), read_setting("b", "int(1,5)"),
                        read_setting("c", "choice(x,[y,z])"), read_setting("d", "uniform(-1,1)"))
        if setting
    ]  # fmt: skip
    assert overrides == ["a=0.00123457", "b=3", "c=[y,z]", "d=0.00123457"]
    assert trial.calls == [("a", 1e-4, 1.0, True), ("b", 1, 5), ("c", ("x", "[y,z]")),
                           ("d", -1.0, 1.0, False)]  # fmt: skip


def test_settings_that_the_sampled_model_lacks_are_omitted() -> None:
    study_plan = plan("model=choice(dann,mmd)", RATE, "method.dann.max_lambda=uniform(0.1,1)")
    drawn = study_plan.drawn(FakeTrial())  # takes the last choice
    assert drawn == ["model=mmd", "optimizer.lr=0.00123457"]


@pytest.mark.parametrize("name", [p.stem for p in (CONF / "tune").glob("*.yaml")])
def test_every_file_in_conf_tune_is_valid(name) -> None:
    arguments = [] if name != "default" else [RATE]
    arguments += ["model=choice(dann,cdan,mmd,mcc)"] if name == "adaptation" else []
    arguments += ["model=feature_extraction"] if name == "head" else []
    assert plan(f"tune={name}", *arguments).space


@pytest.mark.slow
def test_command_line_overrides_the_file() -> None:
    merged = plan("tune=adaptation", "optimizer.lr=0.1", "data.batch_size=choice(8,16)",
                  "model=choice(dann,cdan,mmd,mcc)", "tune.trials=3")  # fmt: skip
    space = {setting.key: setting for setting in merged.space}
    assert "optimizer.lr" not in space
    assert "optimizer.lr=0.1" in merged.fixed
    assert space["data.batch_size"] == Setting("data.batch_size", "choice", ("8", "16"))
    assert merged.trials == 3


@pytest.mark.parametrize(("arguments", "message"), [
    ([], r"no settings to tune; set .*'optimizer\.lr=log\(1e-4,1e-2\)', with the quotes"),
    (["tune=hed"], r"tune=hed is not a file in conf/tune; did you mean 'head'"),
    ([RATE, "tune.trails=3"], r"tune\.trails is not a setting; did you mean 'trials'"),
    ([RATE, "tune.trials=many"], r"tune\.trials=many must be an integer"),
    ([RATE, "tune.trials=0"], r"tune\.trials=0 must be at least 1; set tune\.trials=1 or more"),
    ([RATE, "tune.prune=half"], r"tune\.prune=half must be one of median, none"),
    (["optimiser.lr=log(1e-4,1e-2)"], r"optimiser"),
    (["method.mmd.weight=log(1e-4,1)"], r"mmd"),
    ([RATE, "trainer.devices=2"], r"but trainer\.devices=2; set trainer\.devices=1 and start"),
    (["model=choice(dann,dan)"], r"dan"),
])  # fmt: skip
def test_invalid_plans_are_reported(arguments, message) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(*arguments)


@pytest.mark.slow
def test_default_metric_uses_no_target_labels() -> None:
    assert "selection=source_val" not in with_rule(plan(RATE)).fixed  # dann: bnm
    assert "selection=source_val" in with_rule(plan(RATE, "model=fine_tuning")).fixed
    with_rule(plan(RATE, "tune.metric=target/val/im"))
    with_rule(plan(RATE, "selection=oracle", "tune.metric=target/val/acc"))


@pytest.mark.slow
@pytest.mark.parametrize(("task", "metric", "mode"), [
    ("regression", "mae", "min"), ("multi_label", "f1", "max"),
])  # fmt: skip
def test_trials_are_not_compared_by_a_loss_that_they_may_change(task, metric, mode) -> None:
    task = (f"task={task}", "data=vectors", "model=dann", "data.source.train=a.npz",
            "data.target.train=b.npz", RATE)  # fmt: skip
    found = with_rule(read_plan([*task]))
    assert (found.metric, found.mode) == (f"source/val/{metric}", mode)
    assert with_rule(read_plan([*task, "selection=oracle"])).metric == f"target/val/{metric}"
    assert with_rule(read_plan([*task, "selection=iwcv"])).metric is None
    with pytest.raises(ConfigError, match=rf"or tune.metric=source/val/{metric}"):
        with_rule(read_plan([*task, "tune.metric=target/val/loss", "tune.mode=min"]))


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "message"), [
    (["tune.metric=source/val/loss"], r"is better if it is lower, but .* set tune.mode=min"),
    (["tune.metric=target/val/acc"], r"uses target labels.* set selection=oracle"),
    (["tune.metric=target/val/f1", "track_target=true"], r"uses target labels"),
    (["tune.metric=target/val/age/mae", "tune.mode=min", "track_target=true"], r"uses target"),
    (["tune.metric=target/test/acc", "selection=oracle"], r"is a test metric, which must not be"),
    (["selection=last"], r"selection=last has no metric .* set selection=source_val"),
    (["model=choice(dann,fine_tuning)"], r"selection rules \(bnm, last\), .* set selection="),
])  # fmt: skip
def test_metrics_that_cannot_be_used_are_rejected(arguments, message) -> None:
    with pytest.raises(ConfigError, match=message):
        with_rule(plan(RATE, *arguments))


class FakeFit:
    """Fake training: three epochs with a metric that grows with the learning rate."""

    def __init__(self, *broken: int) -> None:
        self.broken, self.rates, self.epochs = broken, [], []

    def __call__(self, config, folder: Path, callbacks=()) -> dict[str, Any]:
        (watch,) = callbacks
        rate = config["optimizer"]["lr"]
        self.rates.append(rate)
        if len(self.rates) - 1 in self.broken:
            raise DataError("no such image")
        trainer: Any = OmegaConf.create({"sanity_checking": False, "current_epoch": 0})
        for trainer.current_epoch in range(3):
            trainer.callback_metrics = {watch.metric: rate * (trainer.current_epoch + 1)}
            self.epochs.append((len(self.rates) - 1, trainer.current_epoch))
            watch.on_validation_end(trainer, None)
        report = {"schema": 1, "kind": "run", "selection": {"value": 3 * rate}}
        (folder / "report.json").write_text(json.dumps(report))
        return report


@pytest.fixture
def fake_fit(monkeypatch) -> FakeFit:
    pytest.importorskip("optuna")
    fake = FakeFit()
    monkeypatch.setattr(tuning, "fit", fake)
    monkeypatch.setattr(tuning, "write_page", lambda folder: None)
    monkeypatch.setattr(tuning, "report_folder", lambda folder, as_sweep: None)
    return fake


def study(tmp_path, *arguments: str) -> Plan:
    folder = f"tune.dir={tmp_path / 'study'}"
    return plan("model=source_only", "selection=source_val", RATE, folder, *arguments)


@pytest.mark.slow
def test_continued_study_equals_uninterrupted_study(fake_fit, tmp_path, capsys) -> None:
    work(study(tmp_path, "tune.trials=3"))
    work(study(tmp_path, "tune.trials=5"))
    work(study(tmp_path, "tune.trials=5"))
    assert len(fake_fit.rates) == 5
    assert len({*fake_fit.rates}) == 5, "a restarted study sampled the same settings again"
    continued, fake_fit.rates = fake_fit.rates, []
    work(study(tmp_path / "whole", "tune.trials=5"))
    assert fake_fit.rates == continued
    best = max(continued)
    out = capsys.readouterr().out
    assert f"optimizer.lr={best:g}" in re.findall(r"best: .*", out)[-1]


@pytest.mark.slow
def test_bad_trials_are_pruned(fake_fit, tmp_path, capsys) -> None:
    settings = ("tune.trials=12", "tune.random_trials=3", "tune.prune_after=0",
                "tune.sampler=random")  # fmt: skip
    work(study(tmp_path, *settings))
    pruned = [n for n in range(12) if (n, 2) not in fake_fit.epochs]
    assert pruned
    assert all(n >= 3 for n in pruned)
    rates = fake_fit.rates
    for n in pruned:  # in its first epoch it was below the median of the earlier trials
        before = sorted(rates[:n])
        assert rates[n] <= before[len(before) // 2]
    out = capsys.readouterr().out
    assert f"{12 - len(pruned)} trial(s) finished, {len(pruned)} stopped early" in out
    record = json.loads((tmp_path / f"study/{pruned[0]:04d}-source_only/failed.json").read_text())
    assert record["error"].startswith("stopped after epoch 1: source/val/acc was ")


@pytest.mark.slow
def test_pruning_can_be_disabled(fake_fit, tmp_path) -> None:
    settings = ("tune.trials=8", "tune.random_trials=2", "tune.prune_after=0", "tune.prune=none")
    work(study(tmp_path, *settings))
    assert len(fake_fit.epochs) == 8 * 3


@pytest.mark.slow
def test_failed_trials_are_replaced_until_three_fail_in_a_row(fake_fit, tmp_path) -> None:
    fake_fit.broken = (1,)
    work(study(tmp_path, "tune.trials=2"))
    assert len(fake_fit.rates) == 3
    fake_fit.broken = (3, 4, 5)
    with pytest.raises(DataError, match="no such image"):
        work(study(tmp_path, "tune.trials=9"))
    assert len(fake_fit.rates) == 6


@pytest.mark.slow
def test_folder_of_a_different_study_is_rejected(fake_fit, tmp_path) -> None:
    work(study(tmp_path, "tune.trials=1"))
    with pytest.raises(ConfigError, match=r"study with different settings.*another tune\.dir"):
        work(study(tmp_path, "tune.trials=2", "data.batch_size=8"))


@pytest.mark.slow
def test_a_study_is_not_continued_on_other_data(fake_fit, tmp_path, monkeypatch) -> None:
    work(study(tmp_path, "tune.trials=1"))
    monkeypatch.setattr("tl_lightning.sweeps.tuning.study.current_fingerprint", lambda _: "other")
    with pytest.raises(ConfigError, match=r"contains trials on other data: .*another tune\.dir"):
        work(study(tmp_path, "tune.trials=2"))


@pytest.mark.slow
def test_custom_metric_uses_best_epoch(fake_fit, tmp_path, capsys) -> None:
    metric = ("tune.metric=train/loss", "tune.mode=min", "tune.trials=4", "tune.prune=none")
    work(study(tmp_path, *metric))
    out = capsys.readouterr().out
    assert f"train/loss {fake_fit.rates[0]:.4g} (" in out  # its first epoch, the minimum
    assert f"optimizer.lr={min(fake_fit.rates):g}" in out.split("best: ")[1]


@pytest.mark.slow
def test_metric_that_is_never_logged_is_reported(fake_fit, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tuning, "pruning_rule", lambda trial: lambda value, epoch: False)
    with pytest.raises(ConfigError, match=r"tune\.metric=train/los was never logged after"):
        work(study(tmp_path, "tune.metric=train/los", "tune.trials=1"))


@pytest.mark.slow
@pytest.mark.parametrize(("end", "code"), [(KeyboardInterrupt, 130), (Interrupted, 143)])
def test_interrupted_study_prints_how_to_resume(end, code, fake_fit, tmp_path, monkeypatch, capsys):
    def interrupt(*_: Any, **__: Any) -> None:
        raise end

    monkeypatch.setattr(tuning, "fit", interrupt)
    with pytest.raises(SystemExit) as caught:
        work(study(tmp_path, "tune.trials=1"))
    assert caught.value.code == code
    assert f"interrupted; resume with tune.dir={tmp_path / 'study'}" in capsys.readouterr().err


@pytest.mark.slow
def test_trial_of_running_process_is_not_taken_over(
    fake_fit, tmp_path, monkeypatch, capsys
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(tuning, "fit", interrupt)
        with pytest.raises(SystemExit):
            work(study(tmp_path, "tune.trials=1"))
    (folder,) = (tmp_path / "study").glob("0000-*")
    with run_lock(folder):
        work(study(tmp_path, "tune.trials=1"))
        assert "1 still running" in capsys.readouterr().out
    assert fake_fit.rates == []
    work(study(tmp_path, "tune.trials=1"))  # dead: resumed with the same settings
    assert "trial 0: resumed" in capsys.readouterr().out
    assert len(fake_fit.rates) == 1


def planted(tmp_path: Path, values: dict[str, Any], *overrides: str) -> None:
    """Leave a trial in the study as a killed process would, with overrides of somebody else's."""
    import optuna

    folder = tmp_path / "study"
    stored = optuna.load_study(storage=f"sqlite:///{folder}/study.db", study_name="study")
    trial = stored.ask()
    for key, value in values.items():
        trial.suggest_float(key, value, value, log=True)
    (folder / f"{trial.number:04d}-source_only").mkdir()
    attributes = {"overrides": list(overrides), "folder": str(tmp_path / "f"), "sampled": True}
    for name, stored_value in attributes.items():
        trial.set_user_attr(name, stored_value)


@pytest.mark.slow
def test_overrides_in_a_study_file_are_not_used(fake_fit, tmp_path, monkeypatch, capsys) -> None:
    """Only the values of the plan's own settings are read from a study, and no folder."""
    configs = []
    monkeypatch.setattr(tuning, "check", lambda cfg: configs.append(cfg) or check(cfg))
    work(study(tmp_path, "tune.trials=1"))
    planted(tmp_path, {"optimizer.lr": 0.005}, "allow=[subprocess.Popen]",
            "+callbacks.x._target_=lightning.pytorch.callbacks.Timer",
            "+callbacks.x.duration._target_=subprocess.Popen",
            f"+callbacks.x.duration.args='touch {tmp_path}/executed'",
            "+callbacks.x.duration.shell=true")  # fmt: skip
    work(study(tmp_path, "tune.trials=2"))
    out = capsys.readouterr().out
    assert "trial 1: resumed" in out
    assert fake_fit.rates[1] == 0.005
    assert all(not as_dict(cfg)["allow"] for cfg in configs if not isinstance(cfg, dict))
    assert "Popen" not in str(configs) + out
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "f").exists()


@pytest.mark.slow
@pytest.mark.parametrize("value", [1e-9, 1.0])
def test_value_outside_of_the_search_space_is_rejected(value, fake_fit, tmp_path) -> None:
    work(study(tmp_path, "tune.trials=1"))
    planted(tmp_path, {"optimizer.lr": value})
    with pytest.raises(ConfigError, match=r"optimizer\.lr=.* not in the search space of this comm"):
        work(study(tmp_path, "tune.trials=2"))


@pytest.mark.slow
def test_queued_value_outside_of_the_search_space_is_rejected(fake_fit, tmp_path) -> None:
    optuna = pytest.importorskip("optuna")
    work(study(tmp_path, "tune.trials=1"))
    place = f"sqlite:///{tmp_path}/study/study.db"
    optuna.load_study(storage=place, study_name="study").enqueue_trial({"optimizer.lr": "allow"})
    with pytest.raises(ConfigError, match=r"trial 1 of the study in .* that are not in the search"):
        work(study(tmp_path, "tune.trials=3"))


def test_only_values_of_the_search_space_are_taken_from_a_trial() -> None:
    settings = [read_setting("a", "log(1e-4,1)"), read_setting("b", "int(1,5)"),
                read_setting("c", "choice(x,[y,z])")]  # fmt: skip
    good = {"a": 0.5, "b": 2, "c": "[y,z]", "allow": "[subprocess.Popen]"}
    assert [one.draw(StoredTrial(good)) for one in settings if one] == ["a=0.5", "b=2", "c=[y,z]"]
    for bad in (
        {"a": float("nan")},
        {"a": "1,allow=[os]"},
        {"b": 9},
        {"b": "2"},
        {"c": "[os]"},
        {},
    ):
        wrong = next(one for one in settings if one and (one.key in bad or not bad))
        with pytest.raises(ConfigError, match=rf"a trial of this study has {wrong.key}="):
            wrong.draw(StoredTrial(bad))


def test_each_epoch_is_reported_once(tmp_path) -> None:
    optuna = pytest.importorskip("optuna")
    created = optuna.create_study()
    trial = created.ask()
    judge = tuning.pruning_rule(trial)
    assert [judge(value, epoch) for value, epoch in ((0.5, 0), (0.9, 0), (0.7, 1))] == [False] * 3
    assert created.trials[0].intermediate_values == {0: 0.5, 1: 0.7}
    tuning.pruning_rule(trial)(0.1, 1)  # resumed by another process
    assert created.trials[0].intermediate_values == {0: 0.5, 1: 0.7}


def test_pruning_is_decided_after_validations_only_and_explained() -> None:
    calls = []
    watch = Pruning(metric="a", judge=lambda value, epoch: bool(calls.append((value, epoch)) or 1))
    trainer: Any = OmegaConf.create({"sanity_checking": True, "current_epoch": 4})
    trainer.callback_metrics = {"a": 0.25}
    watch.on_validation_end(trainer, None)  # type: ignore[arg-type]
    trainer.sanity_checking, trainer.callback_metrics = False, {}
    watch.on_validation_end(trainer, None)  # type: ignore[arg-type]
    assert calls == []
    trainer.callback_metrics = {"a": 0.25}
    with pytest.raises(Pruned, match=r"stopped after epoch 5: a was 0\.25, worse than in other"):
        watch.on_validation_end(trainer, None)  # type: ignore[arg-type]
    assert calls == [(0.25, 4)]


@pytest.mark.slow
def test_trials_on_a_frozen_backbone_share_cached_features(tmp_path, monkeypatch) -> None:
    """The first trial extracts the features; an interrupted trial resumes in its folder."""
    pytest.importorskip("optuna")
    monkeypatch.setenv("TL_CACHE", str(tmp_path / "cache"))
    arguments = ("model=feature_extraction", "data.augment=none", RATE, "tune.trials=3",
                 f"tune.dir={tmp_path / 'study'}", "cache.features=full",
                 "tune.prune=none")  # fmt: skip
    with stopped_at(monkeypatch, 1, 1):
        work(plan(*arguments))
    work(plan(*arguments))
    reports = {entry["folder"]: entry for entry in collect(tmp_path / "study")}
    assert sorted(reports) == [f"000{n}-feature_extraction" for n in range(3)]
    computed = [sum(part["computed"] for part in reports[name]["dataset"]["features"].values())
                for name in sorted(reports)]  # fmt: skip
    assert computed == [0, 0, 0]  # the first trial had stored them before it was interrupted
    assert len(list((tmp_path / "cache" / "features").rglob("manifest.json"))) == len(
        {path.parent for path in (tmp_path / "cache" / "features").rglob("manifest.json")}
    )


@pytest.mark.slow
@pytest.mark.parametrize("where", ["_folder", "_added"])
def test_process_that_dies_while_sampling_leaves_no_trial(
    where, fake_fit, tmp_path, monkeypatch
) -> None:
    optuna = pytest.importorskip("optuna")

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    work(study(tmp_path, "tune.trials=1"))
    with monkeypatch.context() as patched:
        patched.setattr(tuning, where, die)
        with pytest.raises(SystemExit):
            work(study(tmp_path, "tune.trials=3"))
    work(study(tmp_path, "tune.trials=3"))
    interrupted, fake_fit.rates = fake_fit.rates, []
    work(study(tmp_path / "whole", "tune.trials=3"))
    assert interrupted == fake_fit.rates
    place = f"sqlite:///{tmp_path}/study/study.db"
    trials = optuna.load_study(storage=place, study_name="study").trials
    assert [(trial.number, trial.state.name) for trial in trials] == [
        (number, "COMPLETE") for number in range(3)
    ]


@pytest.mark.slow
def test_damaged_study_is_an_error(fake_fit, tmp_path) -> None:
    pytest.importorskip("optuna")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "study.db").write_bytes(b"x" * 5000)
    with pytest.raises(DataError, match=r"the study in .*study cannot be read \(.*not a database"):
        work(study(tmp_path, "tune.trials=1"))
