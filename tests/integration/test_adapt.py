"""Source-free adaptation of a trained model from the command line."""

from __future__ import annotations

import json

import pytest

from conftest import TINY
from helpers import command, config, same, weights
from tl_lightning.evaluation import load as loading
from tl_lightning.reporting.console import print_run
from tl_lightning.reporting.run.page import write_page
from tl_lightning.training import fit as training


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    training.fit(config("model=source_only", "trainer.max_epochs=1"), folder)
    return folder


@pytest.mark.slow
def test_settings_default_to_those_of_the_checkpoint(trained, tmp_path) -> None:
    """Network and dataset of TINY are only given by the checkpoint."""
    arguments = [f"checkpoint={trained}", "trainer.max_epochs=1", "report.samples=60"]
    done = command("adapt", [*arguments, "method=[shot]", "data.batch_size=8"], tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(next((tmp_path / "outputs").rglob("report.json")).read_text())
    assert report["name"] == "shot"
    checkpoint = next((tmp_path / "outputs").rglob("last.ckpt"))
    after = weights(checkpoint)
    before = weights(trained / "checkpoints" / "last.ckpt")
    assert after["task.head.classifier.0.weight"].equal(before["task.head.classifier.0.weight"])
    assert loading.load(checkpoint).hparams["config"]["data"]["batch_size"] == 8


@pytest.mark.slow
def test_accuracy_before_adaptation_is_measured_and_changes_nothing(
    trained, tmp_path, monkeypatch, capsys
) -> None:
    source = json.loads((trained / "report.json").read_text())["metrics"]
    settings = config(
        "model=source_free", "method=[shot]", "trainer.max_epochs=1", f"init={trained}"
    )
    report = training.fit(settings, tmp_path / "run")
    assert report["initial"] == pytest.approx({k: source[k] for k in report["initial"]})
    assert "target/test/acc" in report["initial"]
    print_run(report, write_page(tmp_path / "run"))
    before = 100 * source["target/test/acc"]
    sentence = f"The accuracy on the target was {before:.1f} % before adaptation and is "
    assert sentence in capsys.readouterr().out
    assert sentence in (tmp_path / "run" / "report.html").read_text()
    monkeypatch.setattr(training, "initial_metrics", lambda parts: {})
    other = training.fit(settings, tmp_path / "other")
    assert other["metrics"] == report["metrics"]
    last = "checkpoints/last.ckpt"
    assert same(weights(tmp_path / "run" / last), weights(tmp_path / "other" / last))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["method=[shot]"], "checkpoint is missing; set checkpoint="),
        (["checkpoint=/nowhere"], "checkpoint=/nowhere is neither a checkpoint nor the folder"),
        (["checkpoint=x", "model=dann"], "model=dann is not supported by adapt.py"),
        (["checkpoint={}", "data.batchsize=8"], "data.batchsize is not a setting; did you mean"),
        (["checkpoint={}", "method=[dann]"], "method=[dann] needs source data"),
    ],
)
def test_invalid_arguments_are_reported(
    arguments, message, trained, tmp_path, capsys, monkeypatch
) -> None:
    import sys

    from tl_lightning.cli.adapt import adapt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["adapt.py", *(a.format(trained) for a in arguments)])
    with pytest.raises(SystemExit) as end:
        adapt()
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_tiny_run_does_not_use_the_default_network() -> None:
    assert any(item.startswith("backbone.widths") for item in TINY)
