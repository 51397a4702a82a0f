"""Scores without target labels: reference values, and collapsed models are never chosen."""

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

from tl_lightning.selection import importance, scores
from tl_lightning.selection.collapse import WORST, apply_collapse_filter, collapsed, kept
from tl_lightning.selection.scores import SCORES, Outputs, raw_scores
from tl_lightning.utils.probabilities import temperature

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(40, 5)) * 2


def test_entropy_equals_scipy() -> None:
    assert scores.entropy(LOGITS) == pytest.approx(-scipy_entropy(softmax(LOGITS, 1).T).mean())


def test_im_of_certain_predictions_is_mutual_information_of_row_and_class() -> None:
    predicted = RNG.integers(0, 4, 30)
    certain = np.eye(4)[predicted] * 200
    assert scores.im(certain) == pytest.approx(mutual_info_score(np.arange(30), predicted))


@pytest.mark.parametrize("shape", [(40, 5), (3, 5)])
def test_bnm_is_scaled_nuclear_norm(shape) -> None:
    logits = RNG.normal(size=shape)
    norm = np.linalg.norm(softmax(logits, 1), "nuc")
    assert scores.bnm(logits) == pytest.approx(norm / np.sqrt(shape[0] * min(shape)))


def test_snd_is_mean_entropy_of_neighbours() -> None:
    p = softmax(LOGITS, 1)
    expected = []
    for i, row in enumerate(p):
        others = np.delete(p, i, axis=0)
        cosine = others @ row / np.linalg.norm(others, axis=1) / np.linalg.norm(row)
        expected.append(scipy_entropy(softmax(cosine / 0.05)))
    assert scores.snd(LOGITS) == pytest.approx(np.mean(expected))


def test_snd_subsamples_rows(monkeypatch) -> None:
    monkeypatch.setattr(scores, "NEIGHBOURS", 3)
    assert scores.snd(LOGITS[:5]) == pytest.approx(scores.snd(LOGITS[[0, 2, 4]]))


def shifted(rows: int = 400) -> tuple[Outputs, np.ndarray]:
    """Return source outputs that are wrong on the right, where the target is."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(rows, 2))
    labels = (x[:, 1] > 0).astype(np.int64)
    logits = 4 * np.stack([-x[:, 1], x[:, 1]], 1) * np.where(x[:, :1] > 0.5, -1, 1)
    return Outputs(x, logits, labels), rng.normal(size=(300, 2)) + np.eye(2)[0]


def test_ratios_equal_two_regressions_on_halves() -> None:
    source, target = shifted()
    scaler = StandardScaler().fit(np.concatenate([source.features, target]))
    x, y = scaler.transform(source.features), scaler.transform(target)
    fit = LogisticRegression(C=0.1, max_iter=200)
    fit.fit(np.concatenate([x[1::2], y]), [0] * 200 + [1] * 300)
    p = fit.predict_proba(x[::2])
    ratios = importance.ratios(source.features, target)
    assert ratios[::2] == pytest.approx(p[:, 1] / p[:, 0] * 200 / 300)
    # The true ratio of two normals with means one apart is exp(x - 1/2).
    assert np.corrcoef(np.log(ratios), source.features[:, 0])[0, 1] > 0.98


def test_iwcv_and_dev_equal_their_formulas(monkeypatch) -> None:
    weights, losses = RNG.random(20) + 0.5, RNG.random(20)
    logits = np.stack([np.zeros(20), np.log(np.expm1(losses))], 1)  # cross-entropy of class 0
    monkeypatch.setattr(scores, "ratios", lambda source, target: weights)
    source = Outputs(np.zeros((20, 1)), logits, np.zeros(20, dtype=int))
    assert scores.iwcv(source, np.zeros((3, 1))) == pytest.approx(-np.mean(weights * losses))
    covariance = np.cov(np.stack([weights * losses, weights]))
    eta = -covariance[0, 1] / covariance[1, 1]
    risk = np.mean(weights * losses) + eta * np.mean(weights) - eta
    assert scores.dev(source, np.zeros((3, 1))) == pytest.approx(-risk)


def test_control_variate_is_exact_for_constant_loss(monkeypatch) -> None:
    monkeypatch.setattr(scores, "ratios", lambda source, target: RNG.random(50) * 9)
    source = Outputs(np.zeros((50, 1)), np.zeros((50, 2)), np.zeros(50, dtype=int))
    assert scores.dev(source, np.zeros((3, 1))) == pytest.approx(-np.log(2))


def test_dev_and_iwcv_weight_errors_near_the_target() -> None:
    wrong, target = shifted()
    assert wrong.labels is not None
    flipped = Outputs(wrong.features * [-1, 1], wrong.logits, wrong.labels)  # wrong on the left
    for score in (scores.dev, scores.iwcv):
        assert score(flipped, target) > score(wrong, target) + 0.5


def test_scores_are_finite_for_distant_domains_and_few_rows() -> None:
    source, target = shifted(30)
    far = Outputs(target * 0 + 1e6, LOGITS[:1].repeat(300, 0)[:, :2])
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        values = raw_scores(source, far)
    assert all(np.isfinite(value) for value in values.values())
    assert source.labels is not None
    few = Outputs(source.features[:1], source.logits[:1], source.labels[:1])
    assert all(np.isfinite(value) for value in raw_scores(few, far).values())


def test_outputs_that_are_not_finite_get_the_worst_score() -> None:
    source, target = shifted(30)
    broken = Outputs(target, np.full((300, 2), np.nan))
    values = raw_scores(source, broken)
    assert {values[name] for name in SCORES} == {WORST}
    assert (values["source_val"], values["predicted"]) == (0.0, 0.0)


def test_prior_im_equals_its_formula() -> None:
    source, _ = shifted()
    assert source.labels is not None
    logits, q = RNG.normal(size=(50, 2)), np.array([0.8, 0.2])
    p = softmax(logits / temperature(source.logits, source.labels), axis=1)
    mean = p.mean(0)
    expected = -(mean * np.log(mean / q)).sum() + (p * np.log(p)).sum(1).mean()
    assert scores.prior_im(source, logits, q) == pytest.approx(expected)
    assert scores.mix_of(source, logits).sum() == pytest.approx(1)
    assert scores.prior_im(source, logits) == pytest.approx((p * np.log(p)).sum(1).mean())


def test_prior_im_prefers_the_classes_that_occur() -> None:
    """Of two certain models, bnm takes the one that spreads a target of one class of three."""
    labels = np.arange(60) % 3
    source = Outputs(np.zeros((60, 1)), 8 * np.eye(3)[labels], labels)
    right, spread = 8 * np.eye(3)[np.zeros(30, dtype=int)], 8 * np.eye(3)[np.arange(30) % 3]
    right[:3] = 8 * np.eye(3)  # a few others
    mix = np.array([0.9, 0.05, 0.05])
    assert scores.prior_im(source, right, mix) > scores.prior_im(source, spread, mix)
    assert scores.bnm(right) < scores.bnm(spread)
    one = 8 * np.eye(3)[np.full(30, 1)]  # collapsed on a rare class
    assert scores.prior_im(source, right, mix) > scores.prior_im(source, one, mix)
    assert scores.entropy(one) == pytest.approx(scores.entropy(right))


def test_raw_scores_equal_individual_functions() -> None:
    source, features = shifted()
    target = Outputs(features, RNG.normal(size=(300, 2)))
    values = raw_scores(source, target)
    assert source.labels is not None
    assert values["source_val"] == scores.source_val(source.logits, source.labels)
    assert values["snd"] == scores.snd(target.logits)
    assert values["dev"] == scores.dev(source, features)
    assert values["iwcv"] == scores.iwcv(source, features)
    assert (values["balance"], values["predicted"]) == scores.balance(target.logits)
    assert list(raw_scores(source, None)) == ["source_val"]
    with pytest.raises(ValueError, match=r"Outputs\(labels=...\) of the source, but it is None"):
        raw_scores(target, None)


CLASSES = 10
TRUE = np.arange(400) % CLASSES


def model(kind: str) -> tuple[Outputs, Outputs]:
    """Return outputs of a good, a constant or a confidently wrong model on both domains."""
    rng = np.random.default_rng(1)
    logits = {
        "good": lambda: 4 * np.eye(CLASSES)[TRUE] + rng.normal(size=(400, CLASSES)),
        "constant": lambda: np.eye(CLASSES)[TRUE * 0] * 60.0,
        "random": lambda: np.eye(CLASSES)[rng.integers(0, CLASSES, 400)] * 60.0,
    }[kind]
    features = rng.normal(size=(CLASSES, 6))[TRUE]
    return Outputs(features, logits(), TRUE), Outputs(features + 0.5, logits())


@pytest.mark.parametrize(
    ("score", "winner"),
    [("snd", "constant"), ("entropy", "constant"), ("entropy", "random"), ("im", "random"),
     ("bnm", "random"), ("snd", "random")],
)  # fmt: skip
@pytest.mark.parametrize("first", [True, False])
def test_collapsed_model_wins_by_raw_score_but_not_after_the_filter(score, winner, first) -> None:
    kinds = [winner, "good"] if first else ["good", winner]
    values = [raw_scores(*model(kind)) for kind in kinds]
    raw = [entry[score] for entry in values]
    assert kinds[int(np.argmax(raw))] == winner
    accuracy = [entry["source_val"] for entry in values]
    assert values[kinds.index(winner)]["source_val"] < 0.2
    filtered = []
    for k, acc in enumerate(accuracy):
        best = max(accuracy[: k + 1])
        bad = collapsed(acc, best, 0.9, values[k]["predicted"], 0.5, CLASSES)
        filtered.append(apply_collapse_filter(raw[k], source_acc=acc, is_collapsed=bad))
    assert kinds[kept(filtered, accuracy, 0.9)] == "good"


def test_predicting_one_target_class_is_collapsed_despite_good_source_accuracy() -> None:
    source, target = model("good")[0], model("constant")[1]
    values = raw_scores(source, target)
    assert values["source_val"] > 0.9
    assert values["predicted"] == 0.1
    assert collapsed(values["source_val"], 0.9, 0.9, values["predicted"], 0.5, CLASSES)
    assert collapsed(0.9, 0.9, 0.9, 0.5, 0.5, 2)  # one of two classes is a single class
    assert not collapsed(0.9, 0.9, 0.9, 1.0, 0.5, 1)


def test_scores_of_collapsed_models_are_finite_and_below_all_others() -> None:
    filtered = [
        apply_collapse_filter(float("nan"), source_acc=0.7, is_collapsed=False),
        apply_collapse_filter(float("inf"), source_acc=0.8, is_collapsed=False),
        apply_collapse_filter(9.0, source_acc=1.0, is_collapsed=True),
        apply_collapse_filter(-1e12, source_acc=0.0, is_collapsed=False),  # bad, but not collapsed
    ]
    assert filtered == sorted(filtered)
    assert len(set(np.float32(filtered))) == 4  # logged in float32
    assert filtered[-1] < -1000


@pytest.mark.parametrize(
    ("values", "source", "expected"),
    [
        ([5.0, 4.0, 3.0], [0.9, 0.9, 0.9], 0),
        ([5.0, 4.0, 3.0], [0.5, 0.9, 0.9], 1),  # the first is demoted later
        ([5.0, 5.0], [0.9, 0.9], 0),  # the earlier one of equal scores
        ([WORST, WORST], [0.9, 0.9], 0),
        ([WORST + 0.2, WORST + 0.3], [0.2, 0.3], 1),  # all collapsed: best source accuracy
        ([5.0, WORST + 0.6], [0.5, 0.6], 1),
        ([5.0, WORST + 0.5, 1.0], [0.5, 0.9, 0.85], 2),
    ],
)
def test_kept_model(values, source, expected) -> None:
    assert kept(values, source, 0.9) == expected
