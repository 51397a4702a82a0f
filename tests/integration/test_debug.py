"""What users of Hydra templates expect: a debug group, tags, parts left out, a local file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import REPO, TINY
from helpers import config
from tl_lightning.config.compose import compose
from tl_lightning.config.validation.check import check
from tl_lightning.errors import ConfigError
from tl_lightning.reporting.run.page import write_page
from tl_lightning.training.fit import fit

WITHOUT_CALLBACKS = [item for item in TINY if not item.startswith("callbacks.")]


@pytest.mark.slow
def test_default_runs_one_batch_of_everything(tmp_path) -> None:
    report = fit(config("debug=default", "trainer.max_epochs=5"), tmp_path / "run")
    assert report["timing"]["steps"] == 1
    assert report["config"]["tags"] == ["debug"]
    assert 0 <= report["metrics"]["target/test/acc"] <= 1
    assert write_page(tmp_path / "run").is_file()


@pytest.mark.slow
def test_limit_bounds_the_batches_of_every_stage(tmp_path) -> None:
    settings = ["debug=limit", "data.steps_per_epoch=9", "data.eval_batch_size=2"]
    report = fit(config(*settings, "trainer.max_epochs=3"), tmp_path / "run")
    assert report["timing"]["steps"] == 3 * 4
    assert write_page(tmp_path / "run").is_file()


@pytest.mark.slow
def test_overfit_repeats_the_same_batches(tmp_path) -> None:
    """The loss on three batches falls far below that of a run with new batches."""
    settings = ["model=source_only", "data.steps_per_epoch=9", "optimizer.lr=0.01"]
    settings += ["trainer.max_epochs=20", "data.augment=none"]
    fit(config("debug=overfit", *settings), tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("train/loss")
    losses = [float(line.split(",")[column]) for line in lines[1:] if line.split(",")[column]]
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.slow
def test_profiler_writes_the_time_of_hooks(tmp_path) -> None:
    fit(config("debug=profiler", "data.steps_per_epoch=1"), tmp_path / "run")
    assert "run_training_epoch" in (tmp_path / "run" / "fit-profile.txt").read_text()


@pytest.mark.slow
def test_no_callbacks_and_no_test(tmp_path) -> None:
    arguments = [*WITHOUT_CALLBACKS, "callbacks=none", "test=false", "tags=[first,second]"]
    report = fit(compose(arguments), tmp_path / "run")
    assert not any("/test/" in name for name in report["metrics"])
    page = write_page(tmp_path / "run").read_text()
    assert "This run has no test accuracy, because of test=false" in page
    assert "tags <b>first, second</b>" in page


@pytest.mark.slow
def test_settings_of_a_machine_are_read_from_conf_local(tmp_path) -> None:
    for name in ("src", "conf", "scripts"):
        ignore = shutil.ignore_patterns("__pycache__", "local")
        shutil.copytree(REPO / name, tmp_path / name, ignore=ignore)
    (tmp_path / "conf/local").mkdir()
    (tmp_path / "conf/local/default.yaml").write_text("# @package _global_\ntags: [mine]\n")
    run = command_in(tmp_path, *TINY, "debug=limit", "trainer.max_epochs=1", "hydra.run.dir=run")
    assert run.returncode == 0, run.stderr
    assert json.loads((tmp_path / "run/report.json").read_text())["config"]["tags"] == ["mine"]


def command_in(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Train with the sources copied to a folder."""
    env = {**os.environ, "PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "scripts/train.py", *overrides],
        cwd=folder, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_metric_with_the_name_of_a_built_in_one_is_refused(tmp_path) -> None:
    metric = "+metrics.f1._target_=torchmetrics.classification.MulticlassCohenKappa"
    with pytest.raises(ConfigError, match=r"metrics\.f1 is computed already \(acc, precision"):
        fit(config(metric), tmp_path / "run")


def test_an_interpolation_of_an_unknown_key_is_one_sentence() -> None:
    with pytest.raises(ConfigError) as caught:
        check(compose([*TINY, "data.seed=${nope}"]))
    assert str(caught.value).startswith("data.seed cannot be resolved: Interpolation key 'nope'")


def test_a_dry_run_is_not_hindered_by_settings_in_epochs() -> None:
    run = check(config("trainer.fast_dev_run=true", "trainer.check_val_every_n_epoch=5",
                       "checkpointing.every_n_epochs=2", "selection=bnm"))  # fmt: skip
    assert (run.trainer.max_epochs, run.trainer.check_val_every_n_epoch) == (1, 1)
    assert run.checkpointing.every_n_epochs == 1


@pytest.mark.parametrize(("override", "message"), [
    ("+logger.foo=1", "logger.foo=1 does not define a part; set +logger.foo._target_=<class>"),
    ("+callbacks.ema=true", "set +callbacks.ema._target_=<class>, or callbacks=ema"),
    ("model=custom", "TransferModule does not implement losses; see docs/bring_your_own.md"),
    ("loss._target_=torch.nn.functional.cross_entropy", "is not a class but a function"),
    ("trainer.devices=0", "trainer.devices=0 is not an integer of at least 1"),
    ("trainer.accelerator=banana", "trainer.accelerator=banana is not one of auto, cpu, gpu"),
])  # fmt: skip
def test_parts_that_are_refused(override, message) -> None:
    with pytest.raises(ConfigError) as caught:
        check(config(override))
    assert message in str(caught.value)
