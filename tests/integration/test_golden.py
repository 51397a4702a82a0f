"""A few golden runs (``benchmarks/golden.py``): weights and figures stay what they were."""

from __future__ import annotations

import importlib.util
import json
import sys
from types import ModuleType

import pytest

from conftest import REPO

SHORT = ("head_first", "method_mcd", "method_self_training", "features", "vectors")


@pytest.fixture(scope="module")
def golden() -> ModuleType:
    path = REPO / "benchmarks" / "golden.py"
    spec = importlib.util.spec_from_file_location("golden", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["golden"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "name", ["dann", *(pytest.param(n, marks=pytest.mark.slow) for n in SHORT)]
)
def test_a_golden_run_gives_what_it_gave(golden, name, tmp_path, monkeypatch) -> None:
    """To the bit on the machine that stored the digests, else its figures to rounding."""
    monkeypatch.setenv("TL_CACHE", str(tmp_path / "cache"))
    whole = json.loads(golden.STORED.read_text())
    stored = whole["runs"][name]
    found = golden.digest(golden.fitted(name, golden.runs()[name](tmp_path), tmp_path))
    if whole["machine"] == golden.machine():
        assert found == stored
    # A test split of 179 digits: two of them may fall the other way where sums are rounded apart.
    assert found["metrics"] == pytest.approx(stored["metrics"], abs=0.012)


@pytest.mark.slow
def test_digests_see_a_changed_weight(golden, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TL_CACHE", str(tmp_path / "cache"))
    settings = [*golden.runs()["dann"](tmp_path), "seed=1"]
    found = golden.digest(golden.fitted("dann", settings, tmp_path))
    stored = json.loads(golden.STORED.read_text())["runs"]["dann"]
    assert found["weights"] != stored["weights"]
    assert found["history"] != stored["history"]
