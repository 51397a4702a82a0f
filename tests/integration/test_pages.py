"""Blocks of Python in README and docs, and commands with a trained model, run as printed.

Places and runs that a reader has are replaced by small generated ones. The pages of own parts and
of the Python API are in ``test_documentation.py``.
"""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tl_lightning as tl
from blocks import EXECUTED, Block, all_blocks, commands_of
from helpers import config
from layouts import class_folders, image
from serving import served
from tl_lightning.training import fit as training

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
#: Pages that the blocks of are executed here.
PAGES = sorted(
    page for page in {*EXECUTED} - {"bring_your_own.md", "python_api.md"} if "notebook" not in page
)
#: What a page has, and what is there in the test.
PLACES = {
    "outputs/sweeps/<sweep>/<run>": "runs/a", "outputs/.../<run>": "runs/a",
    "outputs/<run>": "runs/a", "outputs/<other run>": "runs/b",
    "outputs/sweeps/c": "runs", "outputs/a": "runs/a", "outputs/b": "runs/b",
    "/my/photos": "my/photos", "/models/": "models/",
}  # fmt: skip
#: Commands whose result depends on what was trained, so that a small model may be refused: they are
#: validated by ``tests/unit/test_blocks.py`` only.
REFUSED = ("precision=int8",)
#: Settings that make a run short.
SHORT = [
    "data.steps_per_epoch=2", "data.target_copies=1", "trainer.max_epochs=1", "trainer=cpu",
    "callbacks.adversary_monitor.patience=100", "report.samples=60", "baselines=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Provide a folder with images and two trained runs, and run there."""
    folder = tmp_path_factory.mktemp("pages")
    class_folders(folder / "my" / "photos", 4, tuple("0123456789"))
    for number, name in enumerate(("a", "b", "photo", "other", "dog")):
        image(folder / f"{name}.jpg", number)
    (folder / "models").mkdir()
    for name, model in (("a", "dann"), ("b", "source_only")):
        training.fit(config(f"model={model}", "trainer.max_epochs=1"), folder / "runs" / name)
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    fit: Any = tl.fit
    monkeypatch.setattr(tl, "fit", lambda given, **kwargs: fit([*SHORT, *given], **kwargs))


def replaced(code: str) -> str:
    """Return code with the places of the test."""
    for there, here in PLACES.items():
        code = code.replace(there, here)
    return code


def run_commands(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, arguments in commands_of(replaced(code)):
        if set(arguments) & set(REFUSED):
            continue
        monkeypatch.setattr(sys, "argv", [f"tl-{name.replace('_', '-')}", *arguments])
        if name == "python":
            monkeypatch.setattr(sys, "argv", list(arguments))
            runpy.run_path(arguments[0], run_name="__main__")
            continue
        module = import_module(f"tl_lightning.cli.{name}")
        getattr(module, f"_{name}")(list(arguments))


@pytest.mark.parametrize("page", PAGES)
def test_blocks_of_a_page_run(page: str, place: Path, short_runs: None, monkeypatch) -> None:
    needed = {"export.md": "onnxruntime", "serving.md": "fastapi"}.get(page)
    if needed and find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    found = [
        one for one in all_blocks()
        if one.page == page and one.kind in EXECUTED[page] and not one.reason
    ]  # fmt: skip
    assert found
    scope: dict[str, Any] = {
        "frames": lambda: (np.full((20, 24, 3), value, np.uint8) for value in (10, 200)),
        "image": np.zeros((3, 16, 16), np.uint8),
    }
    if page == "export.md":
        import torch

        scope["image"] = torch.from_numpy(scope["image"])
    if page == "serving.md":
        with served(tl.Predictor.open("runs/a")) as client:
            address = f"127.0.0.1:{client.port}"
            scope["__name__"] = page
            for block in found:
                exec(replaced(block.code).replace("127.0.0.1:8000", address), scope)
        return
    for block in found:
        run_block(block, scope, monkeypatch)
    _check(page, scope)


def run_block(block: Block, scope: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    if block.kind == "commands":
        run_commands(block.code, monkeypatch)
    else:
        exec(compile(replaced(block.code), block.name, "exec"), scope)


def _check(page: str, scope: dict[str, Any]) -> None:
    """Check what the blocks of a page have left."""
    if page == "README.md":
        assert 0 <= scope["report"]["metrics"]["target/test/acc"] <= 1
    if page == "adaptation.md":
        assert 0 <= scope["found"].low <= scope["found"].value <= scope["found"].high <= 1
    if page == "prediction.md":
        assert Path("predictions.csv").read_text().count("\n") == 41
        assert scope["first"][0].label in tuple("0123456789")
    if page == "quickstart.md":
        assert len(scope["predictions"]) == 40
    if page == "export.md":
        assert scope["out"]["probabilities"].shape == (1, 10)
    if page == "sharing.md":
        assert (Path("dogs-dann") / "README.md").is_file()
        assert scope["model"].hparams["classes"]


@pytest.mark.parametrize(("typed", "completed"), [
    ("tl-train model=da", ["model=dann"]),
    ("tl-train model=dann optimizer.weight_d", ["optimizer.weight_decay="]),
])  # fmt: skip
def test_the_shell_completes_as_documented(typed: str, completed: list[str], tmp_path) -> None:
    """In a bash of its own, with the line of docs/commands.md."""
    bash, commands = shutil.which("bash"), Path(sys.executable).parent
    if bash is None or not (commands / "tl-train").is_file():
        pytest.skip("needs bash and the installed command")
    (block,) = [one for one in all_blocks() if "--shell-completion install=bash)" in one.code]
    script = f"""{block.code}
COMP_LINE={typed!r} COMP_WORDS=({typed}) COMP_CWORD={typed.count(" ")}
hydra_bash_completion
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    environment = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}"}
    done = subprocess.run(
        [bash, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True,
        check=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.split() == completed
