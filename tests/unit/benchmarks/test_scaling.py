"""The arithmetic of the scaling plan, by hand."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest
import yaml

from conftest import REPO

#: Round figures: a step of 0.1 s, 100 bytes of gradients, servers of 2 GPUs.
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


def test_a_ring_sends_everything_but_a_share_twice(script) -> None:
    assert script.ring_bytes(1, 100) == 0
    assert script.ring_bytes(4, 100) == 150  # three quarters, reduced and then gathered
    assert script.ring_bytes(4, 100, passes=3) == 225


def test_one_gpu_needs_its_pictures_and_sends_nothing(script) -> None:
    found = script.plan(1, ROUND, "jpeg", "memory", "ddp")
    assert found.needed == {"pictures": 1000, "bytes": 10_000, "cores": 2.5}
    assert (found.sent, found.exposed, found.rate, found.binds) == (0, 0, 1000, "compute")


@pytest.mark.parametrize(
    ("gpus", "read", "place", "changes", "rate", "binds"),
    [
        # 4 cores x 100 pictures/s each, on 2 GPUs.
        (2, "pillow", "memory", {}, 800, "decoding"),
        # A disk of 1e5 bytes/s gives 2,000 pictures of 50 bytes; each server has one.
        (2, "decoded", "disk", {"disk": 5e4}, 1000, "storage"),
        (4, "decoded", "disk", {"disk": 5e4, "network": 1e6}, 2000, "storage"),
        # 6e4 bytes/s for all of them, or what their two ports of 1e4 let in.
        (8, "jpeg", "shared", {"network": 1e6}, 6000, "storage"),
        (4, "jpeg", "shared", {"network": 1e4}, 2000, "storage"),
        # 1.5 x 100 bytes over 1,000 bytes/s are 0.15 s, of which 0.05 s are hidden: 0.2 s a step.
        (4, "jpeg", "memory", {}, 2000, "gradients"),
        # 2 GPUs of one server use NVLink: 1e-4 s, hidden.
        (2, "jpeg", "memory", {}, 1600 * 2, "decoding"),
    ],
)
def test_what_binds(script, gpus, read, place, changes, rate, binds) -> None:
    cores = {"cores_per_gpu": 4.0} if read == "pillow" else {"cores_per_gpu": 1000.0}
    if binds == "decoding" and read == "jpeg":
        cores, changes = {"cores_per_gpu": 4.0}, {"gpu_rate": 1e6, "hidden": 1.0, "nvlink": 1e9}
    found = script.plan(gpus, {**ROUND, **cores, **changes}, read, place, "ddp")
    assert found.rate == pytest.approx(rate)
    assert found.binds == binds


def test_sharded_weights_are_gathered_twice(script) -> None:
    both = [script.plan(4, ROUND, "jpeg", "memory", name) for name in ("ddp", "fsdp")]
    assert [one.sent for one in both] == [150, 225]
    # 0.225 s, of which 0.05 s are hidden behind a step of 0.1 s.
    assert both[1].exposed == pytest.approx(0.175)


def test_every_input_names_its_source_and_measured_ones_stand_in_the_measurements(script) -> None:
    given = yaml.safe_load(script.INPUTS.read_text())
    assert all(entry["source"] and entry["unit"] for g in given.values() for entry in g.values())
    text = (REPO / "docs" / "measurements.md").read_text()
    measured = {name: entry["value"] for name, entry in given["measured"].items()}
    for name in ("pillow_per_core", "decoder_per_core", "cache_per_core"):
        assert f"{measured[name]:,}" in text, name
    assert f"{measured['file_bytes'] // 1000} KB" in text
    assert set(ROUND) == set(script.inputs())


def test_a_figure_of_the_users(script) -> None:
    assert script.inputs(["gpu_rate=800"])["gpu_rate"] == 800
    with pytest.raises(SystemExit, match=r"--set gpurate=1: gpurate is none of batch_size, cache"):
        script.inputs(["gpurate=1"])
    lines = script.table([script.plan(8, ROUND, "jpeg", "memory", "ddp")]).splitlines()
    assert lines[2].startswith("| 8 | 8,000 |")
