"""Scores without target labels: each against a known case, and a collapsed model never wins."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy as scipy_entropy
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import mutual_info_score
from sklearn.preprocessing import StandardScaler

from tl_lightning.selection import scores
from tl_lightning.selection.collapse import WORST, collapsed, floored, kept
from tl_lightning.selection.scores import NAMES, Outputs, raw_scores

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(40, 5)) * 2


def test_entropy_is_scipys() -> None:
    assert scores.entropy(LOGITS) == pytest.approx(-scipy_entropy(softmax(LOGITS, 1).T).mean())


def test_im_of_sure_predictions_is_the_mutual_information_of_row_and_class() -> None:
    called = RNG.integers(0, 4, 30)
    sure = np.eye(4)[called] * 200
    assert scores.im(sure) == pytest.approx(mutual_info_score(np.arange(30), called))


@pytest.mark.parametrize("shape", [(40, 5), (3, 5)])
def test_bnm_is_the_scaled_nuclear_norm(shape) -> None:
    logits = RNG.normal(size=shape)
    norm = np.linalg.norm(softmax(logits, 1), "nuc")
    assert scores.bnm(logits) == pytest.approx(norm / np.sqrt(shape[0] * min(shape)))


def test_snd_is_the_mean_entropy_of_the_neighbours() -> None:
    p = softmax(LOGITS, 1)
    expected = []
    for i, row in enumerate(p):
        others = np.delete(p, i, axis=0)
        cosine = others @ row / np.linalg.norm(others, axis=1) / np.linalg.norm(row)
        expected.append(scipy_entropy(softmax(cosine / 0.05)))
    assert scores.snd(LOGITS) == pytest.approx(np.mean(expected))


def test_snd_takes_some_rows_of_many(monkeypatch) -> None:
    monkeypatch.setattr(scores, "NEIGHBOURS", 3)
    assert scores.snd(LOGITS[:5]) == pytest.approx(scores.snd(LOGITS[[0, 2, 4]]))


def shifted(rows: int = 400) -> tuple[Outputs, np.ndarray]:
    """Return source outputs that are wrong to the right, where the target lies."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(rows, 2))
    labels = (x[:, 1] > 0).astype(np.int64)
    logits = 4 * np.stack([-x[:, 1], x[:, 1]], 1) * np.where(x[:, :1] > 0.5, -1, 1)
    return Outputs(x, logits, labels), rng.normal(size=(300, 2)) + np.eye(2)[0]


def test_ratios_are_those_of_two_regressions_on_halves() -> None:
    source, target = shifted()
    scaler = StandardScaler().fit(np.concatenate([source.features, target]))
    near, far = scaler.transform(source.features), scaler.transform(target)
    fit = LogisticRegression(C=0.1, max_iter=200)
    fit.fit(np.concatenate([near[1::2], far]), [0] * 200 + [1] * 300)
    share = fit.predict_proba(near[::2])
    found = scores.ratios(source.features, target)
    assert found[::2] == pytest.approx(share[:, 1] / share[:, 0] * 200 / 300)
    # The true ratio of two normals one apart is exp(x - 1/2).
    assert np.corrcoef(np.log(found), source.features[:, 0])[0, 1] > 0.98


def test_iwcv_and_dev_are_their_formulas(monkeypatch) -> None:
    weights, losses = RNG.random(20) + 0.5, RNG.random(20)
    logits = np.stack([np.zeros(20), np.log(np.expm1(losses))], 1)  # cross-entropy of class 0
    monkeypatch.setattr(scores, "ratios", lambda source, target: weights)
    source = Outputs(np.zeros((20, 1)), logits, np.zeros(20, dtype=int))
    assert scores.iwcv(source, np.zeros((3, 1))) == pytest.approx(-np.mean(weights * losses))
    covariance = np.cov(np.stack([weights * losses, weights]))
    eta = -covariance[0, 1] / covariance[1, 1]
    risk = np.mean(weights * losses) + eta * np.mean(weights) - eta
    assert scores.dev(source, np.zeros((3, 1))) == pytest.approx(-risk)


def test_the_control_variate_is_exact_where_the_loss_is_constant(monkeypatch) -> None:
    monkeypatch.setattr(scores, "ratios", lambda source, target: RNG.random(50) * 9)
    source = Outputs(np.zeros((50, 1)), np.zeros((50, 2)), np.zeros(50, dtype=int))
    assert scores.dev(source, np.zeros((3, 1))) == pytest.approx(-np.log(2))


def test_dev_and_iwcv_see_errors_where_the_target_lies() -> None:
    wrong, target = shifted()
    assert wrong.labels is not None
    flipped = Outputs(wrong.features * [-1, 1], wrong.logits, wrong.labels)  # wrong to the left
    for score in (scores.dev, scores.iwcv):
        assert score(flipped, target) > score(wrong, target) + 0.5


def test_domains_far_apart_and_few_rows_give_finite_numbers() -> None:
    source, target = shifted(30)
    far = Outputs(target * 0 + 1e6, LOGITS[:1].repeat(300, 0)[:, :2])
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        found = raw_scores(source, far)
    assert all(np.isfinite(value) for value in found.values())
    assert source.labels is not None
    few = Outputs(source.features[:1], source.logits[:1], source.labels[:1])
    assert all(np.isfinite(value) for value in raw_scores(few, far).values())


def test_what_is_not_finite_is_worst() -> None:
    source, target = shifted(30)
    broken = Outputs(target, np.full((300, 2), np.nan))
    found = raw_scores(source, broken)
    assert {found[name] for name in NAMES} == {WORST}
    assert (found["source_val"], found["predicted"]) == (0.0, 0.0)


def test_raw_scores_are_the_single_ones() -> None:
    source, features = shifted()
    target = Outputs(features, RNG.normal(size=(300, 2)))
    found = raw_scores(source, target)
    assert source.labels is not None
    assert found["source_val"] == scores.source_val(source.logits, source.labels)
    assert found["snd"] == scores.snd(target.logits)
    assert found["dev"] == scores.dev(source, features)
    assert found["iwcv"] == scores.iwcv(source, features)
    assert (found["balance"], found["predicted"]) == scores.balance(target.logits)
    assert list(raw_scores(source, None)) == ["source_val"]


CLASSES = 10
TRUE = np.arange(400) % CLASSES


def model(kind: str) -> tuple[Outputs, Outputs]:
    """Return the outputs of a good, a constant or a surely wrong model on both domains."""
    rng = np.random.default_rng(1)
    logits = {
        "good": lambda: 4 * np.eye(CLASSES)[TRUE] + rng.normal(size=(400, CLASSES)),
        "constant": lambda: np.eye(CLASSES)[TRUE * 0] * 60.0,
        "nonsense": lambda: np.eye(CLASSES)[rng.integers(0, CLASSES, 400)] * 60.0,
    }[kind]
    spots = rng.normal(size=(CLASSES, 6))[TRUE]
    return Outputs(spots, logits(), TRUE), Outputs(spots + 0.5, logits())


@pytest.mark.parametrize(
    ("score", "winner"),
    [("snd", "constant"), ("entropy", "constant"), ("entropy", "nonsense"), ("im", "nonsense"),
     ("bnm", "nonsense"), ("snd", "nonsense")],
)  # fmt: skip
@pytest.mark.parametrize("first", [True, False])
def test_a_collapsed_model_wins_by_the_raw_score_and_not_by_the_floored(
    score, winner, first
) -> None:
    kinds = [winner, "good"] if first else ["good", winner]
    found = [raw_scores(*model(kind)) for kind in kinds]
    raw = [one[score] for one in found]
    assert kinds[int(np.argmax(raw))] == winner
    accuracy = [one["source_val"] for one in found]
    assert found[kinds.index(winner)]["source_val"] < 0.2
    after = []
    for k, one in enumerate(found):
        best = max(accuracy[: k + 1])
        bad = collapsed(accuracy[k], best, 0.9, one["predicted"], 0.5, CLASSES)
        after.append(floored(one[score], source_acc=accuracy[k], is_collapsed=bad))
    assert kinds[kept(after, accuracy, 0.9)] == "good"


def test_good_on_the_source_but_one_class_on_the_target_is_collapsed() -> None:
    source, target = model("good")[0], model("constant")[1]
    found = raw_scores(source, target)
    assert found["source_val"] > 0.9
    assert found["predicted"] == 0.1
    assert collapsed(found["source_val"], 0.9, 0.9, found["predicted"], 0.5, CLASSES)
    assert collapsed(0.9, 0.9, 0.9, 0.5, 0.5, 2)  # one of two classes is one class
    assert not collapsed(0.9, 0.9, 0.9, 1.0, 0.5, 1)


def test_a_floored_score_is_finite_and_below_all() -> None:
    below = [
        floored(float("nan"), source_acc=0.7, is_collapsed=False),
        floored(float("inf"), source_acc=0.8, is_collapsed=False),
        floored(9.0, source_acc=1.0, is_collapsed=True),
        floored(-1e12, source_acc=0.0, is_collapsed=False),  # bad, yet not collapsed
    ]
    assert below == sorted(below)
    assert len(set(np.float32(below))) == 4  # as it is logged
    assert below[-1] < -1000


@pytest.mark.parametrize(
    ("values", "source", "expected"),
    [
        ([5.0, 4.0, 3.0], [0.9, 0.9, 0.9], 0),
        ([5.0, 4.0, 3.0], [0.5, 0.9, 0.9], 1),  # the first fell below the floor later
        ([5.0, 5.0], [0.9, 0.9], 0),  # the earlier of equals
        ([WORST, WORST], [0.9, 0.9], 0),
        ([WORST + 0.2, WORST + 0.3], [0.2, 0.3], 1),  # none is fit: the best on the source
        ([5.0, WORST + 0.6], [0.5, 0.6], 1),
        ([5.0, WORST + 0.5, 1.0], [0.5, 0.9, 0.85], 2),
    ],
)
def test_what_a_run_keeps(values, source, expected) -> None:
    assert kept(values, source, 0.9) == expected
