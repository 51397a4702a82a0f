"""A few training steps on real images with pretrained weights; skipped if they are missing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from conftest import REPO
from tl_lightning.backbones.vision import TimmBackbone, TorchvisionBackbone
from tl_lightning.config.compose import compose
from tl_lightning.training import fit as training

pytestmark = pytest.mark.real
WEIGHTS = Path(os.environ.get("TORCH_HOME", REPO.parent / "shared" / "weights"))
SHORT = [
    "data.batch_size=8", "data.eval_batch_size=16", "data.steps_per_epoch=2", "data.num_workers=1",
    "trainer=cpu", "trainer.max_epochs=1", "trainer.limit_val_batches=2",
    "trainer.limit_test_batches=2", "report.samples=16", "report.examples=4",
]  # fmt: skip


@pytest.fixture
def weights(monkeypatch) -> Path:
    if not (WEIGHTS / "hub" / "checkpoints" / "mobilenet_v2-b0353104.pth").is_file():
        pytest.skip(f"pretrained weights not found at TORCH_HOME={WEIGHTS}")
    monkeypatch.setenv("TORCH_HOME", str(WEIGHTS))
    return WEIGHTS


@pytest.fixture(scope="module")
def dogs(real_data, tmp_path_factory) -> Path:
    """All 120 breeds with few images each: features of all images would take minutes."""
    root: Path = tmp_path_factory.mktemp("few") / "dogs"
    for split, kept in (("train", 6), ("test", 2)):
        for breed in sorted((real_data / "dogs" / split).iterdir()):
            folder = root / split / breed.name
            folder.mkdir(parents=True)
            for image in sorted(breed.iterdir())[:kept]:
                shutil.copy(image, folder)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("model", ["dann", "feature_extraction", "fine_tuning"])
def test_short_training_on_real_dogs(model, dogs, weights, tmp_path) -> None:
    plain = OmegaConf.to_container(
        compose(
            [
                f"model={model}",
                "data=dogs",
                f"data.root={dogs}",
                "backbone=mobilenet_v2",
                *SHORT,
            ]
        ),
        resolve=True,
    )
    report = training.fit(plain, tmp_path)
    assert any("synthetic shift" in note for note in report["notes"])
    assert len(report["dataset"]["classes"]) == 120
    assert json.loads((tmp_path / "report.json").read_text())["name"] == model


def test_efficientnet_lite0_uses_its_normalisation(weights) -> None:
    net = TimmBackbone(
        name="tf_efficientnet_lite0", pretrained=True, size=None, grad_checkpointing=False,
        lr_factor=0.1, freeze_bn=False,
        weights=str(weights / "tf_efficientnet_lite0.pth"),
    )  # fmt: skip
    assert (net.input_spec.mean, net.input_spec.std) == ((0.5,) * 3, (0.5,) * 3)
    assert net.out_features == 1280


def test_mobilenet_loads_cached_weights(weights) -> None:
    args = {
        "name": "mobilenet_v2",
        "tag": "IMAGENET1K_V1",
        "weights": None,
        "size": None,
        "grad_checkpointing": False,
        "freeze_bn": False,
        "lr_factor": 0.1,
    }
    torch.manual_seed(0)
    a = TorchvisionBackbone(pretrained=True, **args)
    torch.manual_seed(1)
    b = TorchvisionBackbone(pretrained=True, **args)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
