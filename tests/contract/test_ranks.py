"""Every method has the same gradient on two ranks as on one rank with the whole batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from contract.test_methods import METHODS, trained

__all__ = ["trained"]

WORKER = Path(__file__).with_name("two_ranks.py")
#: Methods that require batch norm, whose statistics differ between ranks without sync_batchnorm.
BATCH_NORM_METHODS = {"adabn", "dsbn", "relative_bn", "tent"}
#: Methods that mix the samples of a rank, in a random order of its own.
MIXING_METHODS = {"mixstyle"}


@pytest.fixture(scope="session")
def differences(trained, tmp_path_factory) -> list[dict[str, float | str]]:
    """Return the results of both ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    arguments = [str(folder / "store"), str(folder / "out"), trained]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(WORKER)]
    options = {"env": env, "stderr": subprocess.PIPE, "text": True}
    ranks = [subprocess.Popen([*command, str(rank), *arguments], **options) for rank in (0, 1)]
    errors = [rank.communicate(timeout=300)[1] for rank in ranks]
    for rank, error in zip(ranks, errors, strict=True):
        assert rank.returncode == 0, error[-3000:]
    return [json.loads((folder / f"out.{rank}").read_text()) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_mean_gradient_of_two_ranks_equals_that_of_the_whole_batch(name, differences) -> None:
    for result in differences:
        if name in BATCH_NORM_METHODS:
            assert "norm" in str(result[name])  # tent also adapts other normalisation layers
        elif name in MIXING_METHODS:
            assert isinstance(result[name], float), result[name]
        else:
            assert isinstance(result[name], float), result[name]
            assert result[name] < 1e-5
