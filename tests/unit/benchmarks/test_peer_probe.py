"""The comparison of aligned probes: photographs, rows, program."""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from conftest import REPO


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(REPO))
    return import_module("benchmarks.peers.probe")


def test_domains_share_no_training_image_and_the_target_is_shifted(probe, tmp_path: Path) -> None:
    colours = np.random.default_rng(0)
    for part, count in (("train", 5), ("test", 3)):
        for name in ("a", "b", "c"):
            place = tmp_path / "data" / part / name
            place.mkdir(parents=True)
            for k in range(count):
                pixels = colours.integers(100, 200, (8, 8, 3)).astype("uint8")
                Image.fromarray(pixels).save(place / f"{k}.jpg")
    out = tmp_path / "out"
    assert probe.photographs(tmp_path / "data", out, 2) == (4, 6)
    names = {d: {f"{p.parent.name}/{p.name}" for p in (out / d / "train").rglob("*.jpg")}
             for d in ("source", "target")}  # fmt: skip
    assert (len(names["source"]), len(names["target"])) == (4, 4)
    assert not names["source"] & names["target"]
    assert len(list((out / "target" / "test").rglob("*.jpg"))) == 6
    assert len(list((out / "source" / "test").rglob("*.jpg"))) == 2
    plain, shifted = (
        np.asarray(Image.open(one / "test" / "a" / "0.jpg"), float).mean((0, 1))
        for one in (tmp_path / "data", out / "target")
    )
    assert shifted.mean() < 0.7 * plain.mean()
    assert shifted[0] > shifted[2]  # redder than blue


def run(**accuracies: float) -> dict[str, dict[str, float]]:
    names = {"ours": "tl_lightning", "align": "tl_lightning, method=[align]",
             "coral": "skada, CORAL", "without": "without alignment"}  # fmt: skip
    seconds = {"ours": 30.0, "align": 10.0, "coral": 60.0, "without": 50.0}
    return {
        names[key]: {"command": seconds[key] + 5, "inside": seconds[key], "accuracy": accuracy}
        for key, accuracy in accuracies.items()
    }


def test_rows_have_times_and_accuracies(probe) -> None:
    runs = [run(ours=0.7 + x, align=0.5, coral=0.6, without=0.4) for x in (0, 0.1, 0.2)]
    inside, command = probe.rows_of(runs, (288, 360), {"scikit-learn": "no wheel"})
    assert (inside.key, command.key) == ("aligned_inside", "aligned_command")
    assert (inside.ratio(), command.ratio()) == (2.0, pytest.approx(65 / 35))
    assert "without alignment" not in inside.values
    assert inside.values["tl_lightning"].note == "accuracy on the target 0.800"
    assert inside.values["tl_lightning, method=[align]"].count == 3
    assert "without alignment has 0.400" in inside.how
    runs[0]["tl_lightning, method=[align]"]["mapped"] = 0.55
    note = probe.rows_of(runs[:1], (288, 360), {})[0].values["tl_lightning, method=[align]"].note
    assert note == "accuracy on the target 0.500 of the probe kept, 0.550 with the map"
    assert inside.absent == {"scikit-learn": "no wheel"}
    assert inside.reached() is None


def test_processor_time_of_a_command_is_that_of_its_process(probe) -> None:
    import subprocess

    began = probe.processor()
    code = "import time; time.sleep(0.3)\nwhile time.process_time() < 0.2: pass"
    subprocess.run([sys.executable, "-I", "-c", code], check=True)
    assert 0.1 < probe.processor() - began < 0.45


def test_program_names_the_figure_without_alignment_and_does_not_use_ours(probe) -> None:
    text = (REPO / "benchmarks" / "peers" / "programs" / "skada_probe.py").read_text()
    tree = ast.parse(text)
    assert probe.WITHOUT in {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
    assert "tl_lightning" not in text


def test_without_photographs_nothing_is_measured(probe) -> None:
    setting = import_module("benchmarks.peers.setting").Setting({}, None, 1, 1)
    assert probe.aligned(setting) == []
