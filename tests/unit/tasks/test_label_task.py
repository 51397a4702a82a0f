"""Main tasks without classes, and ordered levels: losses, units and metrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from tl_lightning.losses.labels import AbsoluteError, BinaryCrossEntropy, Coral, Huber, SquaredError
from tl_lightning.tasks.auxiliary.ordinal import Ordinal
from tl_lightning.tasks.head import Head
from tl_lightning.tasks.label_task import LabelSetTask, NumberTask, label_task
from tl_lightning.tasks.number_scores import NumberScores
from tl_lightning.tasks.ordinal import OrderedLevels, make_ordinal


def head(outputs: int) -> Head:
    return Head(
        in_features=3, num_classes=outputs, bottleneck=None, bottleneck_norm="none", width=None,
        activation="relu", dropout=0.0,
    )  # fmt: skip


def numbers(loss: torch.nn.Module) -> NumberTask:
    names = {"head": head(2), "names": ["age", "size"]}
    return NumberTask(mean=[40.0, 1.0], std=[10.0, 0.5], loss=loss, **names)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [(SquaredError(), [0.5, 2.0]), (AbsoluteError(), [0.5, 1.0]), (Huber(delta=1.0), [0.25, 0.75])],
)
def test_losses_are_of_standardised_numbers(loss, expected) -> None:
    """Labels one deviation off in one output, and two in one of the outputs."""
    labels = torch.tensor([[50.0, 1.0], [40.0, 2.0]])
    task = numbers(loss)
    assert task.sample_losses(torch.zeros(2, 2), labels).tolist() == expected
    assert task.loss(torch.zeros(2, 2), labels).item() == np.mean(expected)
    assert task.loss(torch.zeros(2, 2), labels, torch.tensor([2.0, 0.0])).item() == expected[0]


def test_predictions_are_in_the_unit_of_the_labels() -> None:
    assert numbers(SquaredError()).values(torch.tensor([[0.0, 0.0], [1.0, -2.0]])).tolist() == [
        [40.0, 1.0], [50.0, 0.0],
    ]  # fmt: skip


def test_numbers_are_not_rounded_to_16_bits() -> None:
    task, features = numbers(SquaredError()), torch.randn(4, 3)
    expected = task(features)[1]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(task(features)[1], expected)


def test_unit_of_the_labels_does_not_change_the_training() -> None:
    """Labels in another unit have the same standardised values."""
    raw = torch.tensor([[3.0], [5.0], [10.0]])
    outputs = torch.tensor([[0.1], [0.2], [0.3]])
    losses = []
    for scale, shift in ((1.0, 0.0), (1000.0, -7.0)):
        labels = raw * scale + shift
        info = {"mean": labels.mean().item(), "std": labels.std(correction=0).item()}
        task = label_task("regression", head(1), SquaredError(),
                          {"names": ["y"], "columns": [info]})  # fmt: skip
        losses.append(task.loss(outputs, labels).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_probabilities_of_several_labels() -> None:
    task = label_task("multi_label", head(2), BinaryCrossEntropy(), {"names": ["a", "b"]})
    assert isinstance(task, LabelSetTask)
    assert task.values(torch.tensor([[0.0, 100.0]])).tolist() == [[0.5, 1.0]]
    metrics = task.metrics("val/")
    task.score(metrics, torch.tensor([[1.0, -1.0], [1.0, 1.0]]), torch.tensor([[1.0, 0], [0, 1]]))
    assert metrics.compute()["val/acc"].item() == 0.75


def test_number_scores_are_those_of_scikit_learn_over_batches() -> None:
    random = np.random.default_rng(0)
    true = random.normal(1000.0, 3.0, (50, 2)).astype(np.float32)
    predicted = true + random.normal(size=(50, 2)).astype(np.float32)
    scores = NumberScores(["age", "size"])
    for part in (slice(0, 7), slice(7, 50)):
        scores.update(torch.from_numpy(predicted[part]), torch.from_numpy(true[part]))
    found = {name: value.item() for name, value in scores.compute().items()}
    one = (true.astype(float), predicted.astype(float))
    assert found["mae"] == pytest.approx(mean_absolute_error(*one), rel=1e-5)
    assert found["rmse"] == pytest.approx(root_mean_squared_error(*one), rel=1e-5)
    assert found["r2"] == pytest.approx(r2_score(*one), rel=1e-5)
    assert found["r2_age"] == pytest.approx(r2_score(one[0][:, 0], one[1][:, 0]), rel=1e-5)


def test_r2_of_equal_labels_is_not_defined() -> None:
    scores = NumberScores(["age"])
    scores.update(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [3.0]]))
    assert torch.isnan(scores.compute()["r2"])


def test_name_of_an_output_does_not_add_a_level_to_the_metrics() -> None:
    scores = NumberScores(["km/h", "age"])
    scores.update(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 2.0]]))
    assert scores.compute()["mae_km_h"] == 2.0


# -- ordered levels --------------------------------------------------------------------------
@pytest.mark.parametrize("levels", [2, 3, 6])
def test_levels_have_probabilities_in_their_order(levels: int) -> None:
    """A larger value of the line never makes a lower level likelier (rank consistency)."""
    layer = OrderedLevels(1, levels)
    with torch.no_grad():
        layer.gaps.normal_(generator=torch.Generator().manual_seed(0))
        layer.line.weight.fill_(1.0)
        logp = layer(torch.linspace(-30, 30, 101)[:, None])
    assert logp.isfinite().all()
    assert torch.allclose(logp.exp().sum(1), torch.ones(101), atol=1e-5)
    above = logp.exp().flip(1).cumsum(1).flip(1)
    assert (above[1:] >= above[:-1] - 1e-5).all()
    assert (logp.argmax(1).diff() >= 0).all()


def test_levels_of_large_features_have_finite_log_probabilities() -> None:
    layer = OrderedLevels(1, 4)
    with torch.no_grad():
        layer.line.weight.fill_(1.0)
        assert layer(torch.tensor([[-1e8], [0.0], [1e8]])).isfinite().all()


def test_coral_loss_is_that_of_the_auxiliary_task() -> None:
    layer = OrderedLevels(2, 4)
    features, labels = torch.randn(8, 2), torch.arange(8) % 4
    drops = torch.nn.functional.softplus(layer.gaps).cumsum(0)
    thresholds = torch.cat([layer.first, layer.first - drops])
    other = Ordinal(
        in_features=2, label_info={"names": list("abcd")}, weight=1.0, labels="y", groups=None,
        levels=None,
    )  # fmt: skip
    expected = other.loss(layer.line(features) + thresholds, labels)
    assert Coral()(layer(features), labels).item() == pytest.approx(expected.item(), rel=1e-5)


def test_last_layer_of_a_head_is_replaced() -> None:
    own = head(4)
    make_ordinal(own, 4)
    features, logits = own(torch.zeros(2, 3))
    assert features.shape == (2, 3)
    assert torch.allclose(logits.exp().sum(1), torch.ones(2))
