"""NaN and infinite losses stop the run and report the files of the batch, or skip the batch."""

from __future__ import annotations

import json
import warnings

import pytest
import torch

from helpers import config, same, weights
from tl_lightning.checkpoints.io import read_checkpoint
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import ConfigError, TrainingError
from tl_lightning.models import FineTuning
from tl_lightning.training import fit as training

SOURCE = ("model=source_only", "trainer.max_epochs=2", "data.steps_per_epoch=4")
SKIP = ("callbacks.nan_guard.on_nan=skip", "callbacks.nan_guard.max_skipped=3")


@pytest.fixture
def broken(monkeypatch):
    """Make the loss of some batches NaN or infinite, and record their sample indices."""
    original = FineTuning.losses
    seen: list[list[int]] = []

    def at(*places: tuple[int, int], value: float = float("nan"), break_buffers: bool = False):
        def losses(self, batch):
            terms = original(self, batch)
            epoch, number = self.current_epoch, self.trainer.fit_loop.epoch_loop.batch_idx
            if (epoch, number) not in places:
                return terms
            seen.append(batch["source"]["index"].tolist())
            if break_buffers:
                for module in self.modules():
                    if isinstance(module, torch.nn.BatchNorm2d):
                        module.running_mean.data.fill_(float("nan"))  # not tracked by autograd
            return {"task": terms["task"] * value}

        monkeypatch.setattr(FineTuning, "losses", losses)
        return seen

    return at


def fit(*arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        return training.fit(*arguments)


def names_of(indices, run_dir) -> list[str]:
    stored = read_checkpoint(run_dir / "checkpoints" / "last.ckpt")
    data = validation.check(stored["hyper_parameters"]["config"]).data.build()
    data.discover()
    return [str(data.found["source"].train.names[i]) for i in indices]


def test_first_bad_batch_is_reported_even_if_checked_later(broken, tmp_path) -> None:
    seen = broken((1, 1))
    with pytest.raises(TrainingError) as caught:
        training.fit(config(*SOURCE, "callbacks.nan_guard.every_n_steps=100"), tmp_path)
    files = names_of(seen[0], tmp_path)
    message = str(caught.value)
    assert "not finite at epoch 2, batch 1 (task nan; learning rates backbone" in message
    assert f"contains source {', '.join(files[:4])} and {len(files) - 4} more" in message
    assert "or set callbacks.nan_guard.on_nan=skip" in message
    report = json.loads((tmp_path / "nan_report.json").read_text())
    assert report["files"] == {"source": files}
    assert [(e, b) for e, b, _ in report["before"]] == [*((0, b) for b in range(4)), (1, 0)]
    assert set(report["gradients"]) == set(report["rates"]) == {"backbone", "head"}
    page = (tmp_path / "report.html").read_text()
    assert "batch <b>1</b>" in page
    assert files[-1] in page
    state = weights(tmp_path / "checkpoints" / "last.ckpt")
    assert all(torch.isfinite(v).all() for v in state.values() if v.is_floating_point())


@pytest.mark.slow
def test_no_checkpoint_is_written_within_an_epoch_after_nan_loss(broken, tmp_path) -> None:
    broken((0, 1))
    often = ("checkpointing.every_n_steps=1", "callbacks.nan_guard.every_n_steps=100")
    with pytest.raises(TrainingError, match="not finite at epoch 1, batch 1"):
        training.fit(config(*SOURCE, *often), tmp_path)
    for path in (tmp_path / "checkpoints").iterdir():
        stored = read_checkpoint(path)
        assert stored["global_step"] == 1
        state = stored["state_dict"].values()
        assert all(torch.isfinite(v).all() for v in state if v.is_floating_point())


@pytest.mark.slow
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_skipped_batch_changes_nothing(value, broken, tmp_path) -> None:
    """An epoch whose last batch is skipped ends with the weights before that batch."""
    broken((0, 3), value=value, break_buffers=True)
    one = "trainer.max_epochs=1"
    report = fit(config(*SOURCE, *SKIP, one, "scheduler=constant"), tmp_path / "skip")
    short = ("data.steps_per_epoch=3", "scheduler=constant")
    training.fit(config(*SOURCE, *SKIP, one, *short), tmp_path / "three")
    ends = [tmp_path / name / "checkpoints" / "last.ckpt" for name in ("skip", "three")]
    assert same(weights(ends[0]), weights(ends[1]))
    states = [read_checkpoint(end)["optimizer_states"][0]["state"] for end in ends]
    for number in states[0]:
        for key, moment in states[0][number].items():
            assert torch.equal(moment, states[1][number][key]), key
    assert any("1 batch(es) skipped because" in note for note in report["notes"])
    rows = (tmp_path / "skip" / "metrics.csv").read_text()
    assert "nan" not in rows


@pytest.mark.slow
def test_too_many_skipped_batches_stop_run(broken, tmp_path) -> None:
    broken(*((epoch, batch) for epoch in (0, 1) for batch in range(4)))
    with pytest.raises(TrainingError, match=r"after callbacks.nan_guard.max_skipped=3 skipped"):
        fit(config(*SOURCE, *SKIP), tmp_path)
    assert (tmp_path / "nan_report.json").is_file()


@pytest.mark.slow
def test_skip_mode_does_not_change_a_run_with_finite_losses(tmp_path) -> None:
    plain = training.fit(config(*SOURCE), tmp_path / "stop")
    skip = training.fit(config(*SOURCE, *SKIP), tmp_path / "skip")
    ends = [weights(tmp_path / n / "checkpoints" / "last.ckpt") for n in ("stop", "skip")]
    assert same(*ends)
    assert plain["metrics"] == skip["metrics"]
    assert not any("skipped" in note for note in skip["notes"])


@pytest.mark.slow
def test_accumulated_batches_are_skipped_together(broken, tmp_path) -> None:
    broken((0, 2))
    more = ("trainer.accumulate_grad_batches=2", "trainer.max_epochs=1")
    report = fit(config(*SOURCE, *SKIP, *more), tmp_path)
    note = next(note for note in report["notes"] if "skipped" in note)
    assert note.startswith("1 batch(es) skipped")
    stored = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["callbacks"]["NaNGuard"]
    assert len(stored["skipped"][0]["files"]["source"]) == 32  # both batches of the step


@pytest.mark.slow
def test_batch_with_several_optimizer_steps_is_skipped_once(tmp_path, monkeypatch) -> None:
    from tl_lightning.models.adaptation import DomainAdaptation

    original = DomainAdaptation.task_terms

    def terms(self, views):
        losses = original(self, views)
        bad = (self.current_epoch, self.trainer.fit_loop.epoch_loop.batch_idx) == (0, 1)
        return {k: v * float("nan") if bad else v for k, v in losses.items()}

    monkeypatch.setattr(DomainAdaptation, "task_terms", terms)
    stages = ("model=domain_adaptation", "method=[mcd]", *SKIP)
    report = fit(config(*stages), tmp_path)
    assert any(note.startswith("1 batch(es) skipped") for note in report["notes"])
    state = weights(tmp_path / "checkpoints" / "last.ckpt")
    assert all(torch.isfinite(v).all() for v in state.values() if v.is_floating_point())


def test_invalid_settings_are_reported() -> None:
    wrong = ("callbacks.nan_guard.every_n_steps=0", "callbacks.nan_guard.max_skipped=-1")
    with pytest.raises(ConfigError) as caught:
        validation.check(config(*wrong))
    assert "callbacks.nan_guard.every_n_steps=0 is below 1; set callbacks" in str(caught.value)
    assert "callbacks.nan_guard.max_skipped=-1 is below 0" in str(caught.value)
