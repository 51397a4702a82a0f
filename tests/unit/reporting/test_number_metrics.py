"""Metrics of predicted numbers against scikit-learn and scipy, and their intervals."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import bootstrap, rankdata, spearmanr
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from tl_lightning.reporting.number_metrics import NUMBER_METRICS, number_metrics


def pair(n: int = 60, seed: int = 0, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and predictions ``(n, 2)`` of two outputs, one of them hardly predicted."""
    rng = np.random.default_rng(seed)
    true = rng.normal(size=(n, 2)) * [1, 50] + [0, 200]
    predicted = true + rng.normal(size=(n, 2)) * [0.5, 90]
    return (true.round(), predicted.round()) if ties else (true, predicted)


@pytest.mark.parametrize("ties", [False, True])
def test_values_are_those_of_sklearn_and_scipy(ties) -> None:
    true, predicted = pair(ties=ties)
    found = number_metrics(true, predicted, ["a", "b"])
    for k, name in enumerate(("a", "b")):
        y, f = true[:, k], predicted[:, k]
        expected = {
            "mae": mean_absolute_error(y, f), "rmse": root_mean_squared_error(y, f),
            "r2": r2_score(y, f), "spearman": spearmanr(y, f).statistic,
        }  # fmt: skip
        assert list(found[name]) == list(NUMBER_METRICS)
        for metric, value in expected.items():
            assert found[name][metric][0] == pytest.approx(value), metric


def test_intervals_are_those_of_a_percentile_bootstrap() -> None:
    true, predicted = pair(ties=True)
    y, f = true[:, 0], predicted[:, 0]
    functions = {
        "mae": lambda y, f: np.abs(y - f).mean(),
        "rmse": lambda y, f: np.sqrt(((y - f) ** 2).mean()),
        "r2": lambda y, f: 1 - ((y - f) ** 2).sum() / ((y - y.mean()) ** 2).sum(),
        "spearman": lambda y, f: np.corrcoef(rankdata(y), rankdata(f))[0, 1],
    }
    found = number_metrics(true[:, :1], predicted[:, :1], ["a"])["a"]
    for name, function in functions.items():
        expected = bootstrap(
            (y, f), function, paired=True, vectorized=False, n_resamples=1000,
            method="percentile", rng=1,
        ).confidence_interval  # fmt: skip
        width = expected.high - expected.low
        assert found[name][1] == pytest.approx(expected.low, abs=0.12 * width), name
        assert found[name][2] == pytest.approx(expected.high, abs=0.12 * width), name


@pytest.mark.slow
def test_intervals_contain_the_error_of_the_population_as_often_as_they_say() -> None:
    """The expected absolute error of a normal deviation of 0.5 is 0.399."""
    hits = 0
    for seed in range(100):
        true, predicted = pair(seed=seed)
        _, low, high = number_metrics(true[:, :1], predicted[:, :1], ["a"])["a"]["mae"]
        hits += low < 0.5 * np.sqrt(2 / np.pi) < high
    assert 87 <= hits <= 99


def test_one_output_does_not_depend_on_the_others_and_repeats() -> None:
    true, predicted = pair()
    both = number_metrics(true, predicted, ["a", "b"])
    assert number_metrics(true[:, 1:], predicted[:, 1:], ["b"])["b"] == both["b"]
    assert number_metrics(true, predicted, ["a", "b"], seed=1)["a"]["mae"] != both["a"]["mae"]


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_units_only_scale_the_errors(scale) -> None:
    true, predicted = pair()
    plain = number_metrics(true, predicted, ["a", "b"])["a"]
    found = number_metrics(true * scale, predicted * scale, ["a", "b"])["a"]
    for name in NUMBER_METRICS:
        factor = scale if name in ("mae", "rmse") else 1.0
        assert found[name] == pytest.approx([factor * value for value in plain[name]], rel=1e-6)


CASES = {  # labels, predictions, defined metrics
    "no sample": ([], [], ()),
    "one sample": ([1.0], [3.0], ("mae", "rmse")),
    "two samples": ([1.0, 2.0], [3.0, 4.0], ("mae", "rmse", "r2", "spearman")),
    "equal labels": ([0.1] * 30, list(range(30)), ("mae", "rmse")),
    "equal predictions": (list(range(30)), [0.1] * 30, ("mae", "rmse", "r2")),
    "perfect": (list(range(30)), list(range(30)), ("mae", "rmse", "r2", "spearman")),
    "one label differs": ([0.0] * 29 + [1.0], list(range(30)), ("mae", "rmse", "r2", "spearman")),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_not_defined_is_none(name) -> None:
    true, predicted, defined = CASES[name]
    found = number_metrics(np.array(true)[:, None], np.array(predicted)[:, None], ["a"])["a"]
    assert "NaN" not in json.dumps(found)
    assert {name for name, value in found.items() if value[0] is not None} == set(defined)
    if len(true) < 5 or name == "perfect":
        assert all(value[1:] == [None, None] for value in found.values())
    elif name != "equal labels":
        assert found["mae"][1] < found["mae"][0] < found["mae"][2]


@pytest.mark.slow
def test_large_test_sets_have_fewer_resampled_ones() -> None:
    true, predicted = pair(30_000)
    _, low, high = number_metrics(true[:, :1], predicted[:, :1], ["a"])["a"]["rmse"]
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(2 * 30_000), rel=0.2)


def test_refusals() -> None:
    one = np.zeros((3, 1))
    with pytest.raises(ValueError, match=r"must both be \(N, 2\), one column per name, but are"):
        number_metrics(one, one, ["a", "b"])
    with pytest.raises(ValueError, match="must be finite; leave out samples without labels"):
        number_metrics(one, one * np.nan, ["a"])
