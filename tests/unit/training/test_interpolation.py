"""Models between the start and the selected one: their weights, and the choice among them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from helpers import config, evaluated, same, stopped_at, weights
from tl_lightning.callbacks.model_checkpoint import SelectionCheckpoint
from tl_lightning.checkpoints.io import last_good, read_model
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import CheckpointError, ConfigError
from tl_lightning.evaluation import evaluate as evaluation
from tl_lightning.reporting.run.start import candidate_rows
from tl_lightning.selection.callback import Validators
from tl_lightning.selection.collapse import WORST
from tl_lightning.training import fit as training
from tl_lightning.training import interpolation
from tl_lightning.training.interpolation import interpolated
from tl_lightning.utils.callbacks import find_callback

ADAPTED = ("model=domain_adaptation", "method=[relative_bn,mcc]", "selection=cbnm")
TUNED = ("model=fine_tuning", "selection=source_val")
ALPHAS = "interpolation=[0.25,0.5,0.75]"
SMALL_STEPS = "optimizer.lr=1e-3"


def probed(trained: str, *overrides: str) -> dict[str, Any]:
    start = (f"backbone.checkpoint={trained}", "head_init=probe", "probe_lr_factor=1")
    return config(*start, "baselines=[]", "callbacks.rollback=null", *overrides)


def scores_are(monkeypatch, scores: list[tuple[float, float]], best: float = 0.0) -> None:
    """Replace the score and source accuracy of the interpolated models, in the order of alphas.

    The best source accuracy of the run rises by ``best`` with each of them.
    """
    given = iter(scores)

    def validated(parts, state):
        find_callback(parts.trainer, Validators).best_source_acc += best
        value, accuracy = next(given)
        scores = dict.fromkeys(("source/val/acc", "validator/floored/cbnm"), value)
        return {**scores, "validator/source_val": accuracy}

    monkeypatch.setattr(interpolation, "_validated", validated)


def test_the_ends_are_the_start_and_the_selected_model_bit_for_bit() -> None:
    g = torch.Generator().manual_seed(0)
    pairs = [{"w": torch.randn(500, generator=g), "mean": torch.randn(9, generator=g).half(),
              "count": torch.tensor(k), "extra": torch.tensor([k, k])} for k in (3, 5)]  # fmt: skip
    start, end = pairs
    floats = ("w", "mean")
    for alpha, expected in ((0.0, start), (1.0, end)):
        found = interpolated(start, end, alpha)
        assert all(torch.equal(found[name], expected[name]) for name in floats)
        assert all(torch.equal(found[name], end[name]) for name in ("count", "extra"))
    found = interpolated(start, end, 0.25)
    for name in floats:
        assert found[name].dtype == start[name].dtype
        torch.testing.assert_close(found[name], 0.75 * start[name] + 0.25 * end[name])


@pytest.mark.parametrize("settings", [ADAPTED, TUNED], ids=["adapted", "tuned"])
def test_the_best_of_start_selected_and_interpolated_is_tested(settings, trained, tmp_path) -> None:
    report = training.fit(probed(trained, *settings, ALPHAS, SMALL_STEPS), tmp_path)
    found, chosen = report["start"]["interpolated"], report["selection"]
    assert [one["alpha"] for one in found] == [0.25, 0.5, 0.75]
    start = next(one["scores"][chosen["monitor"]] for one in report["start"]["candidates"]
                 if one["name"] == report["start"]["chosen"])  # fmt: skip
    others = [start, report["start"]["selected"]]
    assert chosen["value"] == max([*others, *(one["score"] for one in found)])
    assert any(one["chosen"] for one in found) is (chosen["value"] > max(others))
    assert [one["alpha"] for one in found if one["chosen"]] == (
        [chosen["alpha"]] if "alpha" in chosen else []
    )
    again = evaluation.evaluate(tmp_path / chosen["checkpoint"])
    assert again["metrics"] == evaluated(report)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "alpha"),
    [
        ([(0.0, 1.0), (9.0, 1.0), (1.0, 1.0)], 0.5),
        ([(7.0, 1.0), (7.0, 1.0), (7.0, 1.0)], 0.25),
        ([(0.0, 1.0), (0.0, 1.0), (0.0, 1.0)], None),
    ],
)
def test_the_chosen_model_has_the_highest_score(
    given, alpha, trained, tmp_path, monkeypatch
) -> None:
    scores_are(monkeypatch, given)
    report = training.fit(probed(trained, *TUNED, ALPHAS, SMALL_STEPS), tmp_path)
    chosen = report["selection"]
    assert chosen.get("alpha") == alpha
    assert [one["score"] for one in report["start"]["interpolated"]] == [one[0] for one in given]
    rows = {row["name"]: row for row in candidate_rows(report)}
    kept = [name for name, row in rows.items() if row["chosen"]]
    checkpoints = tmp_path / "checkpoints"
    if alpha is None:
        assert not (checkpoints / "source_val-interpolated.ckpt").exists()
        assert not any("interpolation" in note for note in report["notes"])
        return
    assert kept == [f"interpolated, alpha {alpha:g}"]
    assert rows[kept[0]]["target"] != "–"
    assert rows["interpolated, alpha 0.75"]["target"] == "–"  # only the chosen model is tested
    assert chosen["checkpoint"] == "checkpoints/source_val-interpolated.ckpt"
    (end,) = [path for path in checkpoints.glob("source_val-*.ckpt")
              if "start" not in path.name and "interpolated" not in path.name] or [
                  checkpoints / "last.ckpt"]  # fmt: skip
    start = weights(checkpoints / "source_val-start.ckpt")
    expected = interpolated(start, weights(end), alpha)
    assert same(weights(tmp_path / chosen["checkpoint"]), expected)
    assert chosen["epoch"] == torch.load(end, weights_only=True)["epoch"]
    assert chosen["value"] == dict(zip((0.25, 0.5, 0.75), given, strict=True))[alpha][0]
    assert (
        f"the tested model is {alpha:g} of epoch {chosen['epoch'] + 1} and {1 - alpha:g} of the "
        "model before training (interpolation=[0.25,0.5,0.75])"
    ) in report["notes"]


@pytest.mark.slow
def test_a_selected_model_that_counts_as_collapsed_by_now_is_not_kept(
    trained, tmp_path, monkeypatch
) -> None:
    """An interpolated model may be so much better on the source that the threshold rises."""
    scores_are(monkeypatch, [(-5.0, 50.0), (-6.0, 50.0), (99.0, 0.3)], best=10.0)
    report = training.fit(probed(trained, *ADAPTED, ALPHAS, SMALL_STEPS), tmp_path)
    assert report["selection"]["alpha"] == 0.25
    assert report["start"]["selected"] < WORST + 1
    assert report["start"]["interpolated"][2]["score"] == pytest.approx(WORST + 0.3)


@pytest.mark.slow
def test_without_learning_all_models_have_the_score_of_the_start(trained, tmp_path) -> None:
    report = training.fit(probed(trained, *ADAPTED, ALPHAS, "optimizer.lr=0"), tmp_path)
    value = report["selection"]["value"]
    for one in report["start"]["interpolated"]:
        assert one["score"] == pytest.approx(value, abs=1e-6)
        assert not one["chosen"]
    # Stored features, of which the start's score is, are rounded differently than the network's.
    assert report["selection"]["epoch"] in (-1, 0)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["source_val", "last"])
def test_a_single_number_is_used_without_a_comparison(rule, trained, tmp_path) -> None:
    """Training hurts here; without a better epoch, the last one is the other end."""
    settings = ("model=fine_tuning", f"selection={rule}", "interpolation=0.3", "optimizer.lr=3")
    report = training.fit(probed(trained, *settings), tmp_path)
    checkpoints = tmp_path / "checkpoints"
    start = weights(checkpoints / f"{rule}-start.ckpt")
    expected = interpolated(start, weights(checkpoints / "last.ckpt"), 0.3)
    assert report["selection"]["alpha"] == 0.3
    assert same(weights(tmp_path / report["selection"]["checkpoint"]), expected)
    assert any(note.endswith("(interpolation=0.3)") for note in report["notes"])
    rows = candidate_rows(report)
    assert [row["name"] for row in rows if row["chosen"]] == ["interpolated, alpha 0.3"]


@pytest.mark.slow
def test_the_run_itself_does_not_change(trained, tmp_path) -> None:
    training.fit(probed(trained, *ADAPTED), tmp_path / "without")
    training.fit(probed(trained, *ADAPTED, ALPHAS), tmp_path / "with")
    last, logs = "checkpoints/last.ckpt", []
    assert same(weights(tmp_path / "with" / last), weights(tmp_path / "without" / last))
    for name in ("with", "without"):
        with (tmp_path / name / "metrics.csv").open() as file:
            logs.append(list(csv.DictReader(file)))
    assert [row.keys() for row in logs[0]] == [row.keys() for row in logs[1]]
    for one, other in zip(*logs, strict=True):
        assert {k: v for k, v in one.items() if "time" not in k and "/test/" not in k} == {
            k: v for k, v in other.items() if "time" not in k and "/test/" not in k
        }


@pytest.mark.slow
def test_a_resumed_run_chooses_as_an_uninterrupted_one(trained, tmp_path, monkeypatch) -> None:
    settings = (*TUNED, SMALL_STEPS, "trainer.max_epochs=3")
    whole = training.fit(probed(trained, *settings, "interpolation=0.5"), tmp_path / "whole")
    with stopped_at(monkeypatch, epoch=2, batch=1):
        training.fit(probed(trained, *settings, "interpolation=0.5"), tmp_path / "cut")
    cut = training.fit(
        probed(trained, *settings, "interpolation=0.5", "resume=auto"), tmp_path / "cut"
    )
    assert cut["selection"] == whole["selection"]
    assert cut["start"] == whole["start"]
    assert cut["metrics"] == whole["metrics"]
    file = whole["selection"]["checkpoint"]
    assert same(weights(tmp_path / "whole" / file), weights(tmp_path / "cut" / file))


@pytest.mark.slow
def test_a_finished_run_can_be_compared_again(trained, tmp_path) -> None:
    """The selected model, the start and the last epoch are unchanged, so only alpha matters."""
    settings = (*TUNED, SMALL_STEPS)
    once = training.fit(probed(trained, *settings, "interpolation=0.5"), tmp_path / "once")
    training.fit(probed(trained, *settings, "interpolation=0.25"), tmp_path / "twice")
    again = ("interpolation=0.5", "resume=auto")
    twice = training.fit(probed(trained, *settings, *again), tmp_path / "twice")
    assert twice["metrics"] == once["metrics"]
    assert twice["selection"] == once["selection"]
    off = training.fit(probed(trained, *settings, "resume=auto"), tmp_path / "twice")
    assert "alpha" not in off["selection"]
    for path in (tmp_path / "twice" / "checkpoints").glob("*.ckpt"):
        if "interpolated" not in path.name:
            path.write_bytes(b"broken")
    with pytest.raises(CheckpointError, match="nothing to resume"):
        last_good(tmp_path / "twice" / "checkpoints")


def test_without_the_model_before_training_there_is_an_error(trained, tmp_path) -> None:
    settings = ("model=fine_tuning", "selection=last", SMALL_STEPS)
    training.fit(probed(trained, *settings), tmp_path)
    with pytest.raises(CheckpointError, match=r"needs the model before training, but there is no "
                       r"last-start.ckpt in .*; set interpolation=null, or"):  # fmt: skip
        training.fit(probed(trained, *settings, "interpolation=0.5", "resume=auto"), tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The dirpath has changed")  # of Lightning; a run ignores it
def test_a_run_resumed_in_another_folder_finds_its_start(trained, tmp_path, monkeypatch) -> None:
    settings = (*TUNED, SMALL_STEPS, "interpolation=0.5")
    with stopped_at(monkeypatch, epoch=1, batch=0):
        training.fit(probed(trained, *settings), tmp_path / "cut")
    resume = f"resume={tmp_path / 'cut'}"
    report = training.fit(probed(trained, *settings, resume), tmp_path / "other")
    assert report["selection"]["alpha"] == 0.5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["interpolation=1"], r"interpolation=1 is not a number above 0 and below 1, or a list"),
        (["interpolation=[0.5,0]"], r"interpolation=\[0.5,0\] is not a number above 0 and"),
        (["interpolation=[0.5,0.5]"], r"a list of different ones .*; set interpolation=\[0.25,"),
        (["interpolation=[]"], r"interpolation=\[\] is not a number above 0"),
        (["interpolation=half"], "interpolation=half is not a number, a list of numbers or null"),
        (["interpolation=0.5", "head_init=random"],
         "needs a model before training that can already predict, but head_init=random; set "),
        ([ALPHAS, "selection=last"],
         "compares models by the selection rule, but selection=last has no score; set selection="),
        (["model=auto", ALPHAS, "selection=cbnm"],
         "needs one training, but model=auto consists of several; set interpolation=null"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_used_are_an_error(trained, overrides, message) -> None:
    with pytest.raises(ConfigError, match=message):
        validation.check(probed(trained, *TUNED, *overrides))


@pytest.mark.parametrize("keeps", [True, False])
def test_only_a_comparison_keeps_a_start_that_was_surpassed(keeps, tmp_path) -> None:
    checkpoint = SelectionCheckpoint(
        dirpath=str(tmp_path), selection="source_val", every_n_epochs=1, every_n_steps=None,
        every_minutes=None, min_seconds=0,
    )  # fmt: skip
    checkpoint.keeps_start = keeps
    names = ["source_val-start.ckpt", "source_val-epoch001.ckpt"]
    for name in names:
        checkpoint._remove_checkpoint(L.Trainer(logger=False), str(tmp_path / name))
    assert [Path(path).name for path in checkpoint.stale] == names[keeps:]


@pytest.mark.slow
def test_mixture_has_no_outputs_of_the_selected_model(trained, tmp_path, monkeypatch) -> None:
    """A run whose selected model was tested is resumed, and killed before the mixture is tested."""
    settings = (*TUNED, "interpolation=[0.5]", SMALL_STEPS)
    scores_are(monkeypatch, [(0.0, 1.0)])
    report = training.fit(probed(trained, *settings), tmp_path)
    assert read_model(tmp_path / report["selection"]["checkpoint"]).reliability
    (tmp_path / "report.json").unlink()
    scores_are(monkeypatch, [(9.0, 1.0)])

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(L.Trainer, "test", killed)
    with pytest.raises(KeyboardInterrupt):
        training.fit(probed(trained, *settings, "resume=auto"), tmp_path)
    mixture = tmp_path / "checkpoints" / "source_val-interpolated.ckpt"
    assert not read_model(mixture).reliability
