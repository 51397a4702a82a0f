"""Classification losses against torch, scikit-learn and their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

from helpers import config, evaluated
from tl_lightning.config.validation import check as validation
from tl_lightning.data.datamodules.digits import DigitsDataModule
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.evaluation import evaluate as evaluation
from tl_lightning.evaluation import load as loading
from tl_lightning.losses.classification import CrossEntropy, Focal, balanced_weights
from tl_lightning.training import fit as training

K = 4
WEIGHTS = [0.5, 1.0, 3.0, 0.25]


def batch(soft: bool, n: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(n, K, generator=g)
    if soft:
        return logits, torch.rand(n, K, generator=g).softmax(1)
    return logits, torch.randint(0, K, (n,), generator=g)


def cross_entropy(smoothing: float = 0.0, weights=None, counts=None, classes=K) -> CrossEntropy:
    return CrossEntropy(
        num_classes=classes, class_counts=counts, label_smoothing=smoothing, class_weights=weights
    )


def focal(gamma: float, smoothing: float = 0.0, weights=None) -> Focal:
    return Focal(
        num_classes=K, class_counts=None, label_smoothing=smoothing, class_weights=weights,
        gamma=gamma,
    )  # fmt: skip


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_and_focal_with_gamma_0_equal_torch(soft, smoothing, weights) -> None:
    logits, labels = batch(soft)
    weight = None if weights is None else torch.tensor(weights)
    expected = functional.cross_entropy(logits, labels, weight=weight, label_smoothing=smoothing)
    assert torch.equal(cross_entropy(smoothing, weights)(logits, labels), expected)
    assert torch.allclose(focal(0.0, smoothing, weights)(logits, labels), expected, rtol=1e-6)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(("gamma", "smoothing"), [(2.0, 0.0), (0.5, 0.1)])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_focal_formula(soft, gamma, smoothing, weights) -> None:
    logits, labels = batch(soft)
    x = logits.double().numpy()
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    y = labels.double().numpy() if soft else np.eye(K)[labels.numpy()]
    q = (1 - smoothing) * y + smoothing / K
    w = np.ones(K) if weights is None else np.array(weights)
    total = (w * q * (1 - p) ** gamma * -np.log(p)).sum()
    expected = total / (len(x) if soft else w[labels.numpy()].sum())
    result = focal(gamma, smoothing, weights)(logits, labels).item()
    assert result == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_has_finite_gradients_on_certain_logits(gamma) -> None:
    logits = torch.tensor([[200.0, 0, 0, 0], [0, 200.0, 0, 0]], requires_grad=True)
    loss = focal(gamma)(logits, torch.tensor([0, 0]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("loss", [cross_entropy(0.1, WEIGHTS), focal(2.0, 0.1, WEIGHTS)])
@pytest.mark.parametrize("soft", [False, True])
def test_losses_are_float32_under_autocast(loss, soft) -> None:
    logits, labels = batch(soft)
    logits = logits.bfloat16()
    labels = labels.bfloat16() if soft else labels
    with torch.autocast("cpu", torch.bfloat16):
        result = loss(logits, labels)
    assert result.dtype == torch.float32
    assert torch.equal(result, loss(logits.float(), labels.float() if soft else labels))


def test_balanced_weights_equal_scikit_learn() -> None:
    labels = np.repeat(np.arange(K), [5, 1, 9, 2])
    expected = compute_class_weight("balanced", classes=np.arange(K), y=labels)
    counts = np.bincount(labels).tolist()
    assert balanced_weights(counts) == pytest.approx(expected, rel=1e-12)
    assert np.allclose(cross_entropy(weights="balanced", counts=counts).weights, expected)


def test_balanced_weights_of_an_empty_class() -> None:
    with pytest.raises(DataError, match=r"class number 1 has none .*set loss.class_weights=null"):
        balanced_weights([3, 0, 2])


def test_error_messages() -> None:
    with pytest.raises(ConfigError, match=r"has 4 numbers for 5 classes; set loss.class_weights="):
        cross_entropy(weights=WEIGHTS, classes=5)
    with pytest.raises(ConfigError, match=r"loss.label_smoothing=1.0 must be in \[0, 1\); set lo"):
        cross_entropy(1.0)
    with pytest.raises(ConfigError, match=r"class_weights=\[1.0, 0, 1, 1\] must be positive numb"):
        focal(1.0, weights=[1.0, 0, 1, 1])
    with pytest.raises(ConfigError, match=r"loss.gamma=-1.0 must be at least 0; set loss.gamma=2"):
        focal(-1.0)


def test_problems_are_reported_by_the_validation() -> None:
    cfg = config("loss=focal", "loss.gamma=-2", "loss.label_smoothing=1.5", "loss.class_weights=[]")
    with pytest.raises(ConfigError) as caught:
        validation.check(cfg)
    for setting in ("loss.gamma=-2", "loss.label_smoothing=1.5", "loss.class_weights=[]"):
        assert setting in str(caught.value)
    with pytest.raises(ConfigError, match=r"loss.class_weights=even is not balanced, a list of nu"):
        validation.check(config("loss.class_weights=even"))


@pytest.mark.slow
def test_balanced_weights_are_loaded_from_the_checkpoint(tmp_path, monkeypatch) -> None:
    """They are computed from the source; loading the checkpoint does not need the data."""
    original = DigitsDataModule.domains

    def imbalanced(self):
        result = original(self)
        train = result["source"].train
        surplus = np.flatnonzero(train.labels == 3)[5:]
        train.labels[surplus] = 4
        return result

    monkeypatch.setattr(DigitsDataModule, "domains", imbalanced)
    cfg = config("loss.class_weights=balanced", "trainer.max_epochs=1")
    report = training.fit(cfg, tmp_path)
    data = validation.check(cfg).data.build()
    data.discover()
    labels = data.found["source"].train.labels
    expected = compute_class_weight("balanced", classes=np.arange(10), y=labels)
    assert expected.max() > 2
    monkeypatch.setattr(DigitsDataModule, "__init__", None)
    loaded = loading.load(tmp_path / report["selection"]["checkpoint"])
    assert np.allclose(loaded.task.loss_fn.weights, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
def test_a_run_with_mixup(name, tmp_path) -> None:
    settings = ("model=source_only", "data.mixup_alpha=0.4", f"loss={name}", "baselines=[]")
    more = ("loss.class_weights=balanced", "loss.label_smoothing=0.1", "trainer.max_epochs=1")
    report = training.fit(config(*settings, *more), tmp_path)
    assert report["status"] == "finished"
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    result = [float(row["train/task"]) for row in rows if row["train/task"]]
    assert 0.5 < result[0] < 5


@pytest.mark.slow
def test_the_settings_of_the_loss_are_loaded_from_the_checkpoint(tmp_path) -> None:
    settings = ("loss.label_smoothing=0.1", "trainer.max_epochs=1", "baselines=[]")
    report = training.fit(config(*settings), tmp_path)
    path = tmp_path / report["selection"]["checkpoint"]
    assert loading.load(path).task.loss_fn.label_smoothing == 0.1
    assert evaluation.evaluate(path, None, None)["metrics"] == evaluated(report)
