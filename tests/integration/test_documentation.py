"""All examples of docs/bring_your_own.md and docs/python_api.md run as printed."""

from __future__ import annotations

import re
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

import tl_lightning as tl
from conftest import REPO
from tl_lightning.cli import evaluate
from tl_lightning.utils.files import read_json

#: Lightning warns about loaders without workers, missing loggers and the like.
pytestmark = pytest.mark.filterwarnings("default")
BLOCK = re.compile(r"```(python|sh)\n(.*?)```", re.S)
#: Short runs: the examples show defaults, of which only the length matters here.
SHORT = {
    "data.steps_per_epoch": "2", "data.target_copies": "1", "trainer.max_epochs": "1",
    "callbacks.adversary_monitor.patience": "100", "report.samples": "60", "report.examples": "4",
    "trainer": "cpu", "baselines": "false",
}  # fmt: skip


def sections(name: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the title and the code blocks of each section of a document."""
    parts = re.split(r"^## ", (REPO / "docs" / name).read_text(), flags=re.M)
    return [(part.splitlines()[0], BLOCK.findall(part)) for part in parts]


OWN = sections("bring_your_own.md")
MODULE = [code for _, blocks in OWN for _, code in blocks if code.startswith("# my_parts.py")]
PARTS = [(title, blocks) for title, blocks in OWN[1:] if blocks]


def short(overrides: list[str]) -> list[str]:
    """Return overrides of a short run that leave out settings of parts that are replaced."""
    kept = dict(SHORT)
    if any(item.startswith("data=custom") for item in overrides):
        kept.pop("data.target_copies")
    return [f"{key}={value}" for key, value in kept.items()] + overrides


@pytest.fixture
def my_parts(tmp_path, monkeypatch) -> Any:
    """Provide the module that the examples import, and a folder to run in."""
    (tmp_path / "my_parts.py").write_text("\n\n".join(MODULE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    original: Any = tl.fit
    monkeypatch.setattr(tl, "fit", lambda given, **kwargs: original(short(list(given)), **kwargs))
    create: Any = tl.create

    def quick(group: str, name: str, **settings: Any) -> Any:
        if (group, name) == ("data", "digits"):
            settings = {"steps_per_epoch": 2, "target_copies": 1, **settings}
        return create(group, name, **settings)

    monkeypatch.setattr(tl, "create", quick)
    yield
    sys.modules.pop("my_parts", None)


def run_command(line: str) -> dict[str, Any]:
    """Run a command of ``scripts/train.py`` or ``scripts/evaluate.py`` in this process."""
    program, script, *overrides = shlex.split(line)
    assert program == "python"
    if script == "scripts/train.py":
        return tl.fit(overrides, run_dir=tempfile.mkdtemp(dir="."))
    assert script == "scripts/evaluate.py"
    out = tempfile.mkdtemp(dir=".")
    evaluate._evaluate([*overrides, f"out={out}"])
    return read_json(Path(out) / "metrics.json")


@pytest.mark.slow
@pytest.mark.parametrize(("title", "blocks"), PARTS, ids=[title for title, _ in PARTS])
def test_example_runs(my_parts, title, blocks, tmp_path) -> None:
    scope: dict[str, Any] = {}
    exec(OWN[0][1][1][1], scope)
    for kind, code in blocks:
        if code.startswith("# my_parts.py"):
            continue
        assert len(code.splitlines()) < 20
        if kind == "python":
            exec(code, scope)
        for line in code.splitlines() if kind == "sh" else ():
            report = run_command(line)
            assert 0 <= report["metrics"]["target/test/acc"] <= 1
    if title == "Metric":
        assert "target/test/kappa" in scope["trainer"].callback_metrics
        assert report["domains"]["target"]["scores"].keys() >= {"kappa", "ece"}
    if title == "Callback":
        assert scope["my_parts"].Count.batches == 4  # two runs of two batches


def test_every_kind_of_part_has_an_example() -> None:
    titles = {title for title, _ in PARTS}
    assert titles == {
        "Backbone", "Loss", "Optimizer", "Learning-rate scheduler", "Metric", "Callback", "Logger",
        "Transform", "Method", "LightningDataModule", "LightningModule",
    }  # fmt: skip
    assert all(len(code.splitlines()) < 20 for _, blocks in PARTS for _, code in blocks)


def test_script_with_own_network_and_loaders_is_short() -> None:
    blocks = dict(sections("python_api.md"))["Your own network and DataLoaders"]
    script = [line for line in blocks[0][1].splitlines() if line]
    assert "DataLoader(" in "".join(script)
    assert len(script) <= 15


@pytest.mark.slow
def test_python_api_page_runs(my_parts) -> None:
    scope: dict[str, Any] = {}
    for _, blocks in sections("python_api.md"):
        for _, code in blocks:
            exec(code, scope)
    assert (
        scope["report"]["metrics"]["target/test/acc"]
        == tl.evaluate("runs/dann")["metrics"]["target/test/acc"]
    )
