"""A finished checkpoint adapted from the command line, without its source."""

from __future__ import annotations

import json

import pytest

from conftest import TINY
from helpers import command, config, weights
from tl_lightning.evaluation import load as loading
from tl_lightning.training import fit as training


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    training.fit(config("model=source_only", "trainer.max_epochs=1"), folder)
    return folder


@pytest.mark.slow
def test_it_takes_over_what_the_run_was(trained, tmp_path) -> None:
    """TINY's network and data are in the checkpoint alone."""
    arguments = [f"checkpoint={trained}", "trainer.max_epochs=1", "report.samples=60"]
    done = command("adapt", [*arguments, "adapter=[shot]", "data.batch_size=8"], tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(next((tmp_path / "outputs").rglob("report.json")).read_text())
    assert report["name"] == "shot"
    checkpoint = next((tmp_path / "outputs").rglob("last.ckpt"))
    found = weights(checkpoint)
    before = weights(trained / "checkpoints" / "last.ckpt")
    assert found["task.head.classifier.0.weight"].equal(before["task.head.classifier.0.weight"])
    assert loading.load(checkpoint).hparams["config"]["data"]["batch_size"] == 8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["adapter=[shot]"], "checkpoint is missing; type checkpoint="),
        (["checkpoint=/nowhere"], "checkpoint=/nowhere is neither a checkpoint nor the folder"),
        (["checkpoint=x", "model=dann"], "model=dann has no place here"),
        (["checkpoint={}", "data.batchsize=8"], "data.batchsize is no setting; did you mean"),
        (["checkpoint={}", "adapter=[dann]"], "adapter=[dann] needs the source"),
    ],
)
def test_words(arguments, words, trained, tmp_path, capsys, monkeypatch) -> None:
    import sys

    from tl_lightning.cli.adapt import adapt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["adapt.py", *(a.format(trained) for a in arguments)])
    with pytest.raises(SystemExit) as end:
        adapt()
    assert end.value.code == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_tiny_run_is_not_the_default() -> None:
    assert any(item.startswith("backbone.widths") for item in TINY)
