"""What is said of a key that is not there."""

from __future__ import annotations

import pytest

from tl_lightning.config.compose import compose, unknown_key
from tl_lightning.config.paths import output_fault


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("modle=dann", "modle is no setting; did you mean 'model'?"),
        ("optimizer.lrate=1", "optimizer.lrate is no setting"),
        ("data.batchsize=1", "data.batchsize is no setting; did you mean 'batch_size'?"),
    ],
)
def test_the_part_that_is_wrong_and_the_nearest_are_named(typed: str, words: str) -> None:
    assert unknown_key(typed, compose([])).startswith(words)


@pytest.mark.parametrize(
    "typed",
    [
        "model=dan", "experiment=dann_paper", "task=[coarse]", "hydra.run.dir=a", "seed=0,1",
        "hydra/launcher=local", "+task@tasks.age=regression", "checkpoint.keep_last=3", "~adapter",
        "adapter.dann.gain=1",
    ],
)  # fmt: skip
def test_what_is_there_is_not_accused(typed: str) -> None:
    assert unknown_key(typed, compose([])) == ""


def test_a_folder_that_cannot_be_made_is_named_before_hydra_tries(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    words = output_fault(["-m", "hydra.sweep.dir=file/sweep"])
    assert words == (
        f"hydra.sweep.dir=file/sweep cannot be made: {tmp_path / 'file'} is no folder; "
        "type hydra.sweep.dir=<folder>"
    )
    for fine in (["-m", "hydra.run.dir=file/run"], ["--help", "hydra.run.dir=file/run"],
                 ["hydra.run.dir='a/b c'"], ["hydra.run.dir=/x/${seed}"], []):  # fmt: skip
        assert output_fault(fine) == ""
    monkeypatch.setattr("os.access", lambda *_: False)
    assert f"outputs cannot be made: {tmp_path} may not be written to" in output_fault([])
