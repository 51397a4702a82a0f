"""Settings to try: how they are said, what is compared, and a study that is cut and goes on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from conftest import TINY
from helpers import stopped_at
from tl_lightning.config.paths import CONF
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.reporting.sweep.page import collect
from tl_lightning.sweeps.tuning import study as tuning
from tl_lightning.sweeps.tuning.plan import Plan, read_plan
from tl_lightning.sweeps.tuning.pruning import Pruned, Pruning
from tl_lightning.sweeps.tuning.space import Setting, read_setting
from tl_lightning.sweeps.tuning.study import with_rule, work
from tl_lightning.utils.files import held
from tl_lightning.utils.signals import Interrupted

SMALL = [word for word in TINY if not word.startswith(("selection", "bracket"))]
RATE = "optimizer.lr=log(1e-4,1e-2)"


def plan(*words: str) -> Plan:
    return read_plan([*SMALL, *words])


@pytest.mark.parametrize(("text", "said"), [
    ("log(0,1)", r"x=log\(0,1\) starts at 0, which has no logarithm; type x=log\(1e-4,1e-2\)"),
    ("uniform(1)", r"has no two ends"), ("uniform(a,b)", r"has no two ends"),
    ("log(1e-2,1e-4)", r"does not go from one number up to another"),
    ("int(1,2.5)", r"does not go .* type x=int\(1,8\)"), ("uniform(0,inf)", r"does not go"),
    ("choice(a)", r"x=choice\(a\) is no choice; type x=choice\(<one>,<other>\)"),
    ("choice(a,a)", r"is no choice"), ("choice(a,)", r"is no choice"),
])  # fmt: skip
def test_ends_that_are_none_are_refused(text, said) -> None:
    with pytest.raises(ConfigError, match=said):
        read_setting("x", text)


def test_a_plain_value_is_nothing_to_try() -> None:
    assert all(read_setting("x", text) is None for text in ("0.1", "[a,b]", "log", "${log:1}"))


class Draws:
    """Stands for a trial: remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def suggest_float(self, *asked: Any, log: bool) -> float:
        self.asked.append((*asked, log))
        return 0.00123456789

    def suggest_int(self, *asked: Any) -> int:
        self.asked.append(asked)
        return 3

    def suggest_categorical(self, *asked: Any) -> str:
        self.asked.append(asked)
        return str(asked[1][-1])


def test_what_is_drawn_is_an_override() -> None:
    trial = Draws()
    found = [
        setting.draw(trial)
        for setting in (read_setting("a", "log(1e-4,1)"), read_setting("b", "int(1,5)"),
                        read_setting("c", "choice(x,[y,z])"), read_setting("d", "uniform(-1,1)"))
        if setting
    ]  # fmt: skip
    assert found == ["a=0.00123457", "b=3", "c=[y,z]", "d=0.00123457"]
    assert trial.asked == [("a", 1e-4, 1.0, True), ("b", 1, 5), ("c", ("x", "[y,z]")),
                           ("d", -1.0, 1.0, False)]  # fmt: skip


def test_a_setting_that_the_model_of_a_trial_lacks_is_left_out() -> None:
    found = plan("model=choice(dann,mmd)", RATE, "adapter.dann.max_lambda=uniform(0.1,1)")
    drawn = found.drawn(Draws())  # takes the last choice
    assert drawn == ["model=mmd", "optimizer.lr=0.00123457"]


@pytest.mark.parametrize("name", [p.stem for p in (CONF / "tune").glob("*.yaml")])
def test_every_file_of_tune_can_be_used(name) -> None:
    words = [] if name != "default" else [RATE]
    words += ["model=choice(dann,cdan,mmd,mcc)"] if name == "adaptation" else []
    words += ["model=feature_extraction"] if name == "head" else []
    assert plan(f"tune={name}", *words).space


def test_what_is_typed_holds_against_the_file() -> None:
    found = plan("tune=adaptation", "optimizer.lr=0.1", "data.batch_size=choice(8,16)",
                 "model=choice(dann,cdan,mmd,mcc)", "tune.trials=3")  # fmt: skip
    keys = {one.key: one for one in found.space}
    assert "optimizer.lr" not in keys
    assert "optimizer.lr=0.1" in found.fixed
    assert keys["data.batch_size"] == Setting("data.batch_size", "choice", ("8", "16"))
    assert found.trials == 3


@pytest.mark.parametrize(("words", "said"), [
    ([], r"nothing to try; type 'optimizer\.lr=log\(1e-4,1e-2\)' with its quotes"),
    (["tune=hed"], r"tune=hed is no file of conf/tune; did you mean 'head'"),
    ([RATE, "tune.trails=3"], r"tune\.trails is no setting; did you mean 'trials'"),
    ([RATE, "tune.trials=many"], r"tune\.trials=many is not a whole number"),
    ([RATE, "tune.trials=0"], r"tune\.trials=0 .* type tune\.trials=1 or more"),
    ([RATE, "tune.prune=half"], r"tune\.prune=half is not one of median, none"),
    (["optimiser.lr=log(1e-4,1e-2)"], r"optimiser"),
    (["adapter.mmd.weight=log(1e-4,1)"], r"mmd"),
    ([RATE, "trainer.devices=2"], r"but trainer\.devices=2; type trainer\.devices=1 and start"),
    (["model=choice(dann,dan)"], r"dan"),
])  # fmt: skip
def test_a_plan_that_cannot_be_is_a_sentence(words, said) -> None:
    with pytest.raises(ConfigError, match=said):
        plan(*words)


def test_figures_without_target_labels_by_default() -> None:
    assert "selection=source_val" not in with_rule(plan(RATE)).fixed  # dann: bnm
    assert "selection=source_val" in with_rule(plan(RATE, "model=fine_tuning")).fixed
    with_rule(plan(RATE, "tune.metric=target/val/im"))
    with_rule(plan(RATE, "selection=oracle", "tune.metric=target/val/acc"))


@pytest.mark.parametrize(("words", "said"), [
    (["tune.metric=target/val/acc"], r"reads labels of the target.* type selection=oracle"),
    (["tune.metric=target/val/f1", "track_target=true"], r"reads labels of the target"),
    (["tune.metric=target/val/age/mae", "tune.mode=min", "track_target=true"], r"reads labels"),
    (["tune.metric=target/test/acc", "selection=oracle"], r"the test, which decides nothing"),
    (["selection=last"], r"selection=last compares no epochs .* type selection=source_val"),
    (["model=choice(dann,fine_tuning)"], r"different rules \(bnm, last\), .* type selection="),
])  # fmt: skip
def test_figures_that_may_not_or_cannot_be_compared(words, said) -> None:
    with pytest.raises(ConfigError, match=said):
        with_rule(plan(RATE, *words))


class Fits:
    """Stands for training: three epochs at a figure that grows with the rate."""

    def __init__(self, *broken: int) -> None:
        self.broken, self.rates, self.epochs = broken, [], []

    def __call__(self, found, folder: Path, watching=()) -> dict[str, Any]:
        (watch,) = watching
        rate = found["optimizer"]["lr"]
        self.rates.append(rate)
        if len(self.rates) - 1 in self.broken:
            raise DataError("no such picture")
        trainer: Any = OmegaConf.create({"sanity_checking": False, "current_epoch": 0})
        for trainer.current_epoch in range(3):
            trainer.callback_metrics = {watch.metric: rate * (trainer.current_epoch + 1)}
            self.epochs.append((len(self.rates) - 1, trainer.current_epoch))
            watch.on_validation_end(trainer, None)
        report = {"schema": 1, "kind": "run", "selection": {"value": 3 * rate}}
        (folder / "report.json").write_text(json.dumps(report))
        return report


@pytest.fixture
def fits(monkeypatch) -> Fits:
    pytest.importorskip("optuna")
    found = Fits()
    monkeypatch.setattr(tuning, "fit", found)
    monkeypatch.setattr(tuning, "write_page", lambda folder: None)
    monkeypatch.setattr(tuning, "report_folder", lambda folder, as_sweep: None)
    return found


def study(tmp_path, *words: str) -> Plan:
    place = f"tune.dir={tmp_path / 'study'}"
    return plan("model=source_only", "selection=source_val", RATE, place, *words)


def test_a_study_goes_on_as_if_it_had_not_been_cut(fits, tmp_path, capsys) -> None:
    work(study(tmp_path, "tune.trials=3"))
    work(study(tmp_path, "tune.trials=5"))
    work(study(tmp_path, "tune.trials=5"))
    assert len(fits.rates) == 5
    assert len({*fits.rates}) == 5, "a restart drew the same again"
    cut, fits.rates = fits.rates, []
    work(study(tmp_path / "whole", "tune.trials=5"))
    assert fits.rates == cut
    best = max(cut)
    out = capsys.readouterr().out
    assert f"optimizer.lr={best:g}" in re.findall(r"best: .*", out)[-1]


def test_what_falls_behind_is_stopped(fits, tmp_path, capsys) -> None:
    settings = ("tune.trials=12", "tune.random_trials=3", "tune.prune_after=0",
                "tune.sampler=random")  # fmt: skip
    work(study(tmp_path, *settings))
    stopped = [n for n in range(12) if (n, 2) not in fits.epochs]
    assert stopped
    assert all(n >= 3 for n in stopped)
    rates = fits.rates
    for n in stopped:  # at its first epoch it was below the median of those before it
        before = sorted(rates[:n])
        assert rates[n] <= before[len(before) // 2]
    out = capsys.readouterr().out
    assert f"{12 - len(stopped)} trial(s) finished, {len(stopped)} stopped early" in out
    noted = json.loads((tmp_path / f"study/{stopped[0]:04d}-source_only/failed.json").read_text())
    assert noted["error"].startswith("stopped after epoch 1: source/val/acc was ")


def test_none_is_stopped_where_nothing_shall_be(fits, tmp_path) -> None:
    settings = ("tune.trials=8", "tune.random_trials=2", "tune.prune_after=0", "tune.prune=none")
    work(study(tmp_path, *settings))
    assert len(fits.epochs) == 8 * 3


def test_a_failed_trial_is_made_up_for_and_three_in_a_row_end_the_study(fits, tmp_path) -> None:
    fits.broken = (1,)
    work(study(tmp_path, "tune.trials=2"))
    assert len(fits.rates) == 3
    fits.broken = (3, 4, 5)
    with pytest.raises(DataError, match="no such picture"):
        work(study(tmp_path, "tune.trials=9"))
    assert len(fits.rates) == 6


def test_another_study_in_the_same_folder_is_refused(fits, tmp_path) -> None:
    work(study(tmp_path, "tune.trials=1"))
    with pytest.raises(ConfigError, match=r"holds a study of other settings.*another tune\.dir"):
        work(study(tmp_path, "tune.trials=2", "data.batch_size=8"))


def test_a_figure_of_ones_own_is_the_best_over_the_epochs(fits, tmp_path, capsys) -> None:
    metric = ("tune.metric=train/loss", "tune.mode=min", "tune.trials=4", "tune.prune=none")
    work(study(tmp_path, *metric))
    out = capsys.readouterr().out
    assert f"train/loss {fits.rates[0]:.4g} (" in out  # of its first epoch, where it is least
    assert f"optimizer.lr={min(fits.rates):g}" in out.split("best: ")[1]


def test_a_figure_that_is_never_logged_is_a_sentence(fits, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tuning, "judged", lambda trial: lambda value, epoch: False)
    with pytest.raises(ConfigError, match=r"tune\.metric=train/los was logged by no validation"):
        work(study(tmp_path, "tune.metric=train/los", "tune.trials=1"))


@pytest.mark.parametrize(("end", "code"), [(KeyboardInterrupt, 130), (Interrupted, 143)])
def test_a_study_that_was_cut_says_how_it_goes_on(end, code, fits, tmp_path, monkeypatch, capsys):
    def cut(*_: Any, **__: Any) -> None:
        raise end

    monkeypatch.setattr(tuning, "fit", cut)
    with pytest.raises(SystemExit) as caught:
        work(study(tmp_path, "tune.trials=1"))
    assert caught.value.code == code
    assert f"interrupted; go on with tune.dir={tmp_path / 'study'}" in capsys.readouterr().err


def test_the_trial_of_a_process_at_work_is_left_to_it(fits, tmp_path, monkeypatch, capsys) -> None:
    def cut(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(tuning, "fit", cut)
        with pytest.raises(SystemExit):
            work(study(tmp_path, "tune.trials=1"))
    (folder,) = (tmp_path / "study").glob("0000-*")
    with held(folder):
        work(study(tmp_path, "tune.trials=1"))
        assert "1 still running" in capsys.readouterr().out
    assert fits.rates == []
    work(study(tmp_path, "tune.trials=1"))  # dead: taken over, with what it had drawn
    assert "trial 0: goes on" in capsys.readouterr().out
    assert len(fits.rates) == 1


def test_a_judge_hears_each_epoch_once(tmp_path) -> None:
    optuna = pytest.importorskip("optuna")
    made = optuna.create_study()
    trial = made.ask()
    judge = tuning.judged(trial)
    assert [judge(value, epoch) for value, epoch in ((0.5, 0), (0.9, 0), (0.7, 1))] == [False] * 3
    assert made.trials[0].intermediate_values == {0: 0.5, 1: 0.7}
    tuning.judged(trial)(0.1, 1)  # taken over by another process
    assert made.trials[0].intermediate_values == {0: 0.5, 1: 0.7}


def test_pruning_asks_after_validations_only_and_says_why() -> None:
    asked = []
    watch = Pruning(metric="a", judge=lambda value, epoch: bool(asked.append((value, epoch)) or 1))
    trainer: Any = OmegaConf.create({"sanity_checking": True, "current_epoch": 4})
    trainer.callback_metrics = {"a": 0.25}
    watch.on_validation_end(trainer, None)  # type: ignore[arg-type]
    trainer.sanity_checking, trainer.callback_metrics = False, {}
    watch.on_validation_end(trainer, None)  # type: ignore[arg-type]
    assert asked == []
    trainer.callback_metrics = {"a": 0.25}
    with pytest.raises(Pruned, match=r"stopped after epoch 5: a was 0\.25, worse than that of ot"):
        watch.on_validation_end(trainer, None)  # type: ignore[arg-type]
    assert asked == [(0.25, 4)]


@pytest.mark.slow
def test_heads_on_a_frozen_backbone_cost_one_extraction(tmp_path, monkeypatch) -> None:
    """The trials' features are those of the first; a cut trial goes on in its folder."""
    pytest.importorskip("optuna")
    monkeypatch.setenv("TL_CACHE", str(tmp_path / "cache"))
    words = ("model=feature_extraction", "data.augment=none", RATE, "tune.trials=3",
             f"tune.dir={tmp_path / 'study'}", "cache.features=full",
             "tune.prune=none")  # fmt: skip
    with stopped_at(monkeypatch, 1, 1):
        work(plan(*words))
    work(plan(*words))
    reports = {entry["folder"]: entry for entry in collect(tmp_path / "study")}
    assert sorted(reports) == [f"000{n}-feature_extraction" for n in range(3)]
    computed = [sum(part["computed"] for part in reports[name]["dataset"]["features"].values())
                for name in sorted(reports)]  # fmt: skip
    assert computed == [0, 0, 0]  # before it was cut, the first trial had stored them
    assert len(list((tmp_path / "cache" / "features").rglob("manifest.json"))) == len(
        {path.parent for path in (tmp_path / "cache" / "features").rglob("manifest.json")}
    )
