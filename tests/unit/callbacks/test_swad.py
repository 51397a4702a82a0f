"""SWAD: the window against the paper's algorithm, and runs with it."""

from __future__ import annotations

import itertools

import pytest
import torch

from helpers import config, same, stopped_at, weights
from tl_lightning.callbacks.swad import Segment, Window
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import ConfigError
from tl_lightning.training import fit as training


def pushed(losses, converged=3, tolerated=3, ratio=1.3) -> Window:
    """Return the window after segments whose weights are their positions."""
    window = Window(converged, tolerated, ratio)
    for number, loss in enumerate(losses):
        window.push(Segment(loss, 10, [torch.tensor([float(number)])]))
    return window


def bounds(losses, converged=3, tolerated=3, ratio=1.3) -> range:
    """Return the segments of the window by the definition, with all losses known."""
    count = len(losses)
    start = next(
        (i for i in range(count - converged + 1)
         if min(losses[i : i + converged]) == losses[i]), None,
    )  # fmt: skip
    if start is None:
        return range(count - 1, count)
    threshold = ratio * sum(losses[start : start + converged]) / converged
    for end in range(start, count - tolerated + 1):
        if min(losses[end : end + tolerated]) > threshold:
            return range(start, end)
    within = [i for i in range(start, count) if losses[i] <= threshold]
    return range(start, within[-1] + 1)


@pytest.mark.parametrize("length", [1, 2, 3, 5, 7])
def test_window_of_all_short_curves(length) -> None:
    for losses in itertools.product((1.0, 1.2, 2.0), repeat=length):
        expected = bounds(list(losses))
        found = pushed(losses).result().values[0].item()
        assert found == pytest.approx(sum(expected) / len(expected), abs=1e-4), losses


def test_the_window_ends_where_the_loss_rises_for_good() -> None:
    losses = [3.0, 2.0, 1.0, 1.1, 1.2, 1.3, 5.0, 1.0, 5.0, 5.0, 5.0, 0.1, 0.1, 0.1]
    window = pushed(losses)
    assert window.closed
    assert window.result().values[0].item() == pytest.approx(sum(range(2, 8)) / 6)


def test_segments_count_by_their_steps() -> None:
    window = Window(1, 2, 2.0)
    window.push(Segment(1.0, 30, [torch.tensor([0.0])]))
    window.push(Segment(1.0, 10, [torch.tensor([4.0])]))
    assert window.result().values[0].item() == pytest.approx(1.0)


def test_state_is_restored() -> None:
    losses = [3.0, 1.0, 1.1, 1.2, 9.0, 1.0, 9.0]
    for cut in range(len(losses)):
        first = pushed(losses[:cut])
        second = Window(3, 3, 1.3)
        second.restore(first.state())
        for number in range(cut, len(losses)):
            second.push(Segment(losses[number], 10, [torch.tensor([float(number)])]))
        assert torch.equal(second.result().values[0], pushed(losses).result().values[0])


SETTINGS = [
    "model=swad", "data.source.domain=[plain,inverted]", "trainer.max_epochs=5",
    "callbacks.weight_averaging.converged=2", "callbacks.weight_averaging.tolerated=2",
    "selection=auto",
]  # fmt: skip


@pytest.mark.slow
def test_a_run_tests_the_mean_over_the_window(tmp_path, monkeypatch) -> None:
    """With a window that never ends, the mean over all steps from its beginning."""
    pushes = []
    original = Window.push

    def push(self, segment):
        pushes.append((segment.loss, segment.steps, [one.clone() for one in segment.values]))
        original(self, segment)

    monkeypatch.setattr(Window, "push", push)
    given = "callbacks.weight_averaging.converged=1", "callbacks.weight_averaging.ratio=100"
    report = training.fit(config(*SETTINGS, *given), tmp_path)
    assert report["selection"]["rule"] == "last"
    assert [steps for _, steps, _ in pushes] == [3] * 5
    found = weights(tmp_path / report["selection"]["checkpoint"])
    name = "task.head.classifier.0.weight"
    place = next(i for i, one in enumerate(pushes[0][2]) if one.shape == found[name].shape)
    expected = torch.stack([values[place] for _, _, values in pushes]).mean(0)
    assert not torch.equal(found[name], pushes[-1][2][place])
    torch.testing.assert_close(found[name], expected)


@pytest.mark.slow
@pytest.mark.parametrize("place", [(1, 0), (3, 1)])
def test_resume_equals_uninterrupted_run(place, tmp_path, monkeypatch) -> None:
    training.fit(config(*SETTINGS), tmp_path / "whole")
    with stopped_at(monkeypatch, *place):
        training.fit(config(*SETTINGS), tmp_path / "resumed")
    training.fit(config(*SETTINGS, "resume=auto"), tmp_path / "resumed")
    last = "checkpoints/last.ckpt"
    assert same(weights(tmp_path / "whole" / last), weights(tmp_path / "resumed" / last))


def test_a_rule_that_chooses_epochs_is_refused() -> None:
    given = "model=domain_generalization", "callbacks=swad", "selection=source_val"
    with pytest.raises(ConfigError, match="chooses the steps itself, but selection=source_val"):
        validation.check(config(*given))
