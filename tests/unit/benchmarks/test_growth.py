"""Growth with images, classes, domains and jobs, and the script for a GPU, at tiny sizes."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

from conftest import REPO
from helpers import loaded


@pytest.fixture(scope="module")
def growth() -> ModuleType:
    return loaded(REPO / "benchmarks" / "growth.py")


def test_exponent_is_that_of_the_largest_sizes(growth) -> None:
    assert growth.exponent([10, 100, 1000], [5, 1, 100]) == pytest.approx(2)
    assert growth.exponent([1, 2, 4], [9, 3, 3]) == 0


def test_table_has_sizes_figures_and_exponents(growth) -> None:
    points = [growth.Point(10, 1.0, 100.0), growth.Point(100, 10.0, 1000.0)]
    (row,) = growth.table({"images": points}).splitlines()[2:]
    assert row == "| images | 10, 100 | 1.0, 10.0 | 1.00 | 100, 1,000 | 1.00 |"


def test_unknown_options_are_refused(growth) -> None:
    with pytest.raises(SystemExit, match="image: valid are only, images"):
        growth.main(["image=1"])


def test_a_failing_run_is_not_a_figure(growth, tmp_path) -> None:
    with pytest.raises(RuntimeError, match="ValueError: too much"):
        growth.asked("raise ValueError('too much')", [], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"), [("images", 200), ("classes", 3), ("domains", 2), ("jobs", 2)]
)
def test_every_point_can_be_measured(growth, name: str, size: int) -> None:
    (point,) = growth.grown(name, [size])
    assert point.size == size
    assert point.seconds > 0
    assert 100 < point.memory < 10_000


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(REPO))
    return loaded(REPO / "benchmarks" / "gpu.py")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_part_runs_on_a_cpu(gpu, monkeypatch, capsys) -> None:
    monkeypatch.setattr(gpu.Run, "turns", 1)
    gpu.main(["device=cpu", "tiny=true"])
    rows = [line.split(" | ")[:2] for line in capsys.readouterr().out.splitlines()[2:]]
    parts = {part.strip("| ") for part, _ in rows}
    assert parts == set(gpu.PARTS) - {"memory"}  # which is that of a GPU
    assert ["| precision", "bfloat16, channels-last"] in rows


def test_parts_after_the_time_are_left_out(gpu) -> None:
    run = gpu.Run(torch.device("cpu"), tiny=True, seconds=-1.0)
    assert list(gpu.measured(run, ["graphs", "ours"])) == [("graphs", None), ("ours", None)]


def test_options_of_the_gpu_script_are_checked(gpu, monkeypatch) -> None:
    with pytest.raises(SystemExit, match="devices: valid are device, tiny, seconds"):
        gpu.main(["devices=cpu"])
    with pytest.raises(SystemExit, match="nothing: valid are"):
        gpu.main(["parts=nothing"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="this machine has no GPU; set device=cpu tiny=true"):
        gpu.main([])
