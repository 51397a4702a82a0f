"""model=auto: several models on stored features, and the choice between them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers import config
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import ConfigError
from tl_lightning.evaluation import load as loading
from tl_lightning.reporting.run.start import candidate_rows
from tl_lightning.training import auto
from tl_lightning.training import fit as training

PROBES = ["frozen probe", "probe, relative_bn"]


def settings(trained: str, *overrides: str):
    return config(
        "model=auto", f"backbone.checkpoint={trained}", "head_init=probe", "selection=cbnm",
        "model.steps=6", "model.bottleneck=8", *overrides,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(trained, tmp_path_factory):
    """Return the folder and the report of a run."""
    folder = tmp_path_factory.mktemp("auto")
    return folder, training.fit(settings(trained), folder)


def test_the_model_with_the_best_score_is_kept(finished) -> None:
    _, report = finished
    found = {one["name"]: one for one in report["start"]["candidates"]}
    names = list(found)
    assert (names[:2], names[3:]) == (PROBES, ["mcc", "relative_bn+mcc"])
    assert names[2] in ("probe, align", "probe, relative_bn, align")
    chosen = found[report["start"]["chosen"]]
    assert report["selection"]["rule"] == "cbnm"
    for name in ("source/test/acc", "target/test/acc"):
        assert report["metrics"][name] == pytest.approx(chosen["metrics"][name])
    assert report["name"] == "auto"
    assert f"{report['start']['chosen']} was chosen among 5 models by cbnm" in report["notes"][0]
    rows = candidate_rows(report)
    assert [row["name"] for row in rows if row["chosen"]] == [report["start"]["chosen"]]
    assert len(rows) == 5


@pytest.mark.slow
def test_without_candidates_only_probes_are_compared(trained, tmp_path) -> None:
    report = training.fit(
        config("model=align", f"backbone.checkpoint={trained}", "head_init=probe",
               "selection=cbnm", "method.align.kind=centre"),
        tmp_path,
    )  # fmt: skip
    names = [one["name"] for one in report["start"]["candidates"]]
    assert names[:2] == PROBES
    assert names[2:] in (["probe, align"], ["probe, relative_bn, align"])
    assert report["name"] == "align"
    stored = loading.load(tmp_path / report["selection"]["checkpoint"])
    assert stored.alignment.kind == "centre"


@pytest.mark.slow
def test_its_checkpoint_is_that_of_the_candidate(finished) -> None:
    folder, report = finished
    net = loading.load(folder / report["selection"]["checkpoint"])
    methods = set(getattr(net, "methods", {}))
    names = {"mcc": {"mcc"}, "relative_bn+mcc": {"relative_bn", "mcc"}}
    assert methods == names.get(report["start"]["chosen"], {"relative_bn", "align"})
    assert (folder / "predictions.npz").is_file()


@pytest.mark.slow
def test_finished_candidates_are_not_trained_again(finished, trained, monkeypatch) -> None:
    folder, report = finished
    (folder / "report.json").unlink()
    monkeypatch.setattr(training, "build", lambda *_: pytest.fail("trained again"))
    with pytest.raises(ConfigError, match=r"contains candidates of an earlier run; set resume=au"):
        training.fit(settings(trained), folder)
    resumed = training.fit(settings(trained, "resume=auto"), folder)
    assert resumed["metrics"] == report["metrics"]
    other = settings(trained, "resume=auto", "model.head_lr=0.5")
    with pytest.raises(ConfigError, match=r"mcc was trained with different settings: optimizer.lr"):
        training.fit(other, folder)


def test_candidates_on_other_data_are_not_compared(finished, trained, monkeypatch) -> None:
    monkeypatch.setattr("tl_lightning.training.data_version.current_fingerprint", lambda _: "other")
    with pytest.raises(
        ConfigError, match=r"is finished, but was trained on other data: samples or"
    ):
        training.fit(settings(trained, "resume=auto"), finished[0])


def candidate(name: str, score: float, source: float, kept: bool = True, ratio: float = 0.9):
    return SimpleNamespace(name=name, score=score, source=source, kept=kept, ratio=ratio)


def test_a_candidate_that_fails_on_the_source_is_not_chosen() -> None:
    found = [candidate("a", 0.5, 0.9), candidate("b", 0.9, 0.7), candidate("c", 0.6, 0.85)]
    assert auto._best(found).name == "c"
    found[1].ratio = 0.5
    assert auto._best(found).name == "b"
    found[1].ratio = 0.9
    found.append(candidate("the other probe", 0.99, 0.9, kept=False))
    assert auto._best(found).name == "c"


def test_a_candidate_with_class_weights_may_give_up_source_accuracy(trained) -> None:
    """Whatever the run itself, which has no class weights, resolves to."""
    plain = settings(trained, "callbacks.validators.min_source_ratio=auto")
    run = validation.check(plain)
    ratios = {
        name: validation.check(auto._head(run, name)).plain["callbacks"]["validators"][
            "min_source_ratio"
        ]
        for name in ("mcc", "class_weights+dann")
    }
    assert ratios == {"mcc": 0.9, "class_weights+dann": 0.5}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["head_init=random"], "model=auto compares models on the features of a pretrained netw"),
        (
            ["method=[mcc]"],
            r"but mcc is trained; set model.candidates=\[mcc\] or model=mcc",
        ),
        (
            ["head.bottleneck=8"],
            "with heads of its own, but head.bottleneck=8; set head.bottleneck=",
        ),
        (["selection=last"], "compares models by a score of the unlabelled target, but selection"),
        (["trainer.devices=2"], "trains several models in turn, which is not supported on sever"),
        (["model.candidates=[mcd+mc]"], r"contains mcd\+mc, but mc is not a method; did you mean"),
        (["model.steps=0"], "model.steps=0 is not"),
        (["resume=/a/run"], "model=auto is resumed in its own folder, but resume=/a/run; set re"),
    ],
)
def test_error_messages(trained, overrides, message) -> None:
    with pytest.raises(ConfigError, match=message):
        validation.check(settings(trained, *overrides))


def test_a_missing_target_is_one_message(trained) -> None:
    with pytest.raises(ConfigError) as caught:
        validation.check(settings(trained, "data.target=null", "selection=auto"))
    assert str(caught.value).startswith("model=auto adapts to a target, but data.target=null; set")
    assert "\n" not in str(caught.value)


def test_problems_of_a_candidate_are_found_before_training(trained, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mme"):
        training.fit(settings(trained, "model.candidates=[mme]"), tmp_path)
    assert not (tmp_path / "candidates").exists()
