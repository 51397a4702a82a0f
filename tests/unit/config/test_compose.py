"""Composition, error messages for unknown keys, and unusable output folders."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from conftest import TINY
from helpers import config, plain_config
from tl_lightning.config.compose import compose, unknown_key
from tl_lightning.config.paths import output_problem


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("modle=dann", "modle is not a setting; did you mean 'model'?"),
        ("optimizer.lrate=1", "optimizer.lrate is not a setting"),
        ("data.root=/a", "data.root is not a setting; valid: _target_, "),
        ("data.batchsize=1", "data.batchsize is not a setting; did you mean 'batch_size'?"),
    ],
)
def test_unknown_key_names_the_wrong_part_and_the_nearest_key(override: str, message: str) -> None:
    assert unknown_key(override, compose([])).startswith(message)


@pytest.mark.parametrize(
    "override",
    [
        "model=dan", "experiment=dann_paper", "aux_task=[coarse]", "hydra.run.dir=a", "seed=0,1",
        "hydra/launcher=local", "+aux_task@aux_tasks.age=regression", "checkpointing.keep_last=3",
        "~method", "method.dann.gain=1",
    ],
)  # fmt: skip
def test_valid_override_is_accepted(override: str) -> None:
    assert unknown_key(override, compose([])) == ""


def test_output_folder_that_cannot_be_created(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    assert output_problem(["-m", "hydra.sweep.dir=file/sweep"]) == (
        f"cannot create hydra.sweep.dir=file/sweep: {tmp_path / 'file'} is not a folder; "
        "set hydra.sweep.dir=<folder>"
    )
    for valid in (["-m", "hydra.run.dir=file/run"], ["--help", "hydra.run.dir=file/run"],
                  ["hydra.run.dir='a/b c'"], ["hydra.run.dir=/x/${seed}"], []):  # fmt: skip
        assert output_problem(valid) == ""
    monkeypatch.setattr("os.access", lambda *_: False)
    assert f"hydra.run.dir=outputs: {tmp_path} is not writable" in output_problem([])


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("model=dann", "optimizer.lr=0.5", "seed=3"),
        ("optimizer.lr=0.5", "model=source_only", "data.target=null", "tags=[a,b]"),
        ("trainer.max_epochs=7", "scheduler=cosine", "+trainer.limit_test_batches=2"),
        ("model=domain_adaptation", "method=[mmd,mcc]", "method.mmd.weight=0.25"),
        ("~callbacks.nan_guard", "hydra.run.dir=runs/a", "data.size=24"),
    ],
)
def test_configurations_of_tests_are_those_of_hydra(overrides, monkeypatch) -> None:
    """Tests set values in a copy of what Hydra composed (``tests/helpers.py``)."""
    monkeypatch.setenv("TL_RUN_ID", "same")
    whole = OmegaConf.to_container(compose([*TINY, *overrides]), resolve=True)
    assert config(*overrides) == whole
    assert config(*overrides) is not config(*overrides)
    own = [one for one in overrides if not one.startswith("data.size")]
    assert plain_config(*own) == OmegaConf.to_container(compose(own), resolve=True)
