"""Two ranks give every method the gradient of one rank with the doubled batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from contract.test_methods import ADAPTERS, trained

__all__ = ["trained"]

WORKER = Path(__file__).with_name("two_ranks.py")
#: Methods about batch norm, whose statistics are each rank's own unless the trainer syncs them.
ABOUT_NORMS = {"adabn", "dsbn", "tent"}


@pytest.fixture(scope="session")
def differences(trained, tmp_path_factory) -> list[dict[str, float | str]]:
    """Return what both ranks found."""
    folder = tmp_path_factory.mktemp("ranks")
    arguments = [str(folder / "store"), str(folder / "out"), trained]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(WORKER)]
    keep = {"env": env, "stderr": subprocess.PIPE, "text": True}
    ranks = [subprocess.Popen([*command, str(rank), *arguments], **keep) for rank in (0, 1)]
    said = [rank.communicate(timeout=300)[1] for rank in ranks]
    for rank, words in zip(ranks, said, strict=True):
        assert rank.returncode == 0, words[-3000:]
    return [json.loads((folder / f"out.{rank}").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("name", ADAPTERS)
def test_mean_gradient_of_two_ranks_is_that_of_the_whole_batch(name, differences) -> None:
    for found in differences:
        if name in ABOUT_NORMS:
            assert "batch norm" in str(found[name])
        else:
            assert isinstance(found[name], float), found[name]
            assert found[name] < 1e-5
