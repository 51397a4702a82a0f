"""The calculations of ``benchmarks/scaling.py``, compared with values computed by hand."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest
import yaml

from conftest import REPO

#: Round numbers: a step of 0.1 s, 100 bytes of gradients, servers with 2 GPUs.
ROUND = {
    "pillow_per_core": 100.0, "decoder_per_core": 400.0, "cache_per_core": 1000.0,
    "file_bytes": 10.0, "decoded_bytes": 50.0, "gpu_rate": 1000.0, "batch_size": 100.0,
    "parameters": 25.0, "gradient_bytes": 4.0, "gpus_per_node": 2.0, "cores_per_gpu": 4.0,
    "nvlink": 1e6, "network": 1000.0, "disk": 1e5, "shared": 6e4, "hidden": 0.5,
}  # fmt: skip


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scaling", REPO / "benchmarks" / "scaling.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["scaling"] = module
    spec.loader.exec_module(module)
    return module


def test_ring_all_reduce_bytes(script) -> None:
    assert script.ring_bytes(1, 100) == 0
    assert script.ring_bytes(4, 100) == 150  # three quarters, first reduced and then gathered
    assert script.ring_bytes(4, 100, passes=3) == 225


def test_single_gpu_sends_nothing(script) -> None:
    plan = script.plan(1, ROUND, "jpeg", "memory", "ddp")
    assert plan.needed == {"images": 1000, "bytes": 10_000, "cores": 2.5}
    assert (plan.sent, plan.exposed, plan.rate, plan.binds) == (0, 0, 1000, "compute")


@pytest.mark.parametrize(
    ("gpus", "read", "place", "changes", "rate", "binds"),
    [
        # 4 cores x 100 images/s each, on 2 GPUs.
        (2, "pillow", "memory", {}, 800, "decoding"),
        # A disk with 5e4 bytes/s reads 1,000 images of 50 bytes; each server has one.
        (2, "decoded", "disk", {"disk": 5e4}, 1000, "storage"),
        (4, "decoded", "disk", {"disk": 5e4, "network": 1e6}, 2000, "storage"),
        # 6e4 bytes/s for all servers, or the capacity of their two ports with 1e4 bytes/s.
        (8, "jpeg", "shared", {"network": 1e6}, 6000, "storage"),
        (4, "jpeg", "shared", {"network": 1e4}, 2000, "storage"),
        # 1.5 x 100 bytes at 1,000 bytes/s take 0.15 s, of which 0.05 s are hidden: 0.2 s per step.
        (4, "jpeg", "memory", {}, 2000, "gradients"),
        # 2 GPUs in one server communicate over NVLink: 1e-4 s, hidden.
        (2, "jpeg", "memory", {}, 1600 * 2, "decoding"),
    ],
)
def test_bottleneck(script, gpus, read, place, changes, rate, binds) -> None:
    cores = {"cores_per_gpu": 4.0} if read == "pillow" else {"cores_per_gpu": 1000.0}
    if binds == "decoding" and read == "jpeg":
        cores, changes = {"cores_per_gpu": 4.0}, {"gpu_rate": 1e6, "hidden": 1.0, "nvlink": 1e9}
    plan = script.plan(gpus, {**ROUND, **cores, **changes}, read, place, "ddp")
    assert plan.rate == pytest.approx(rate)
    assert plan.binds == binds


def test_sharded_weights_are_gathered_twice(script) -> None:
    ddp, fsdp = (script.plan(4, ROUND, "jpeg", "memory", name) for name in ("ddp", "fsdp"))
    assert (ddp.sent, fsdp.sent) == (150, 225)
    # 0.225 s, of which 0.05 s are hidden behind a step of 0.1 s.
    assert fsdp.exposed == pytest.approx(0.175)


def test_inputs_have_sources_and_measured_ones_are_documented(script) -> None:
    inputs = yaml.safe_load(script.INPUTS.read_text())
    entries = [entry for group in inputs.values() for entry in group.values()]
    assert all(entry["source"] and entry["unit"] for entry in entries)
    text = (REPO / "docs" / "measurements.md").read_text()
    measured = {name: entry["value"] for name, entry in inputs["measured"].items()}
    for name in ("pillow_per_core", "decoder_per_core", "cache_per_core"):
        assert f"{measured[name]:,}" in text, name
    assert f"{measured['file_bytes'] // 1000} KB" in text
    assert set(ROUND) == set(script.inputs())


def test_changed_inputs(script) -> None:
    assert script.inputs(["gpu_rate=800"])["gpu_rate"] == 800
    message = r"--set gpurate=1: gpurate must be one of batch_size, cache"
    with pytest.raises(SystemExit, match=message):
        script.inputs(["gpurate=1"])
    lines = script.table([script.plan(8, ROUND, "jpeg", "memory", "ddp")]).splitlines()
    assert lines[2].startswith("| 8 | 8,000 |")


def test_command_prints_a_row_per_number_of_gpus(script, monkeypatch, capsys) -> None:
    for place, bottleneck in (("disk", "compute"), ("shared", "storage")):
        arguments = ["scaling.py", "--gpus", "8", "1024", "--place", place]
        monkeypatch.setattr(sys, "argv", arguments)
        script.main()
        rows = capsys.readouterr().out.splitlines()[2:]
        assert [row.split(" | ")[-1] for row in rows] == ["compute |", f"{bottleneck} |"]
