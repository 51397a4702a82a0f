"""What is said of a key that is not there."""

from __future__ import annotations

import pytest

from tl_lightning.cli import compose
from tl_lightning.typos import unknown_key


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
