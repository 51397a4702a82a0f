"""The house keeps its own rules."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

from conftest import REPO
from tl_lightning.errors import DataError
from tl_lightning.tables import GROUPS, refreshed, sentence, table

SOURCE = REPO / "src" / "tl_lightning"

#: What each room may import from; errors, types, activations, schedules, runtime are open to all.
RANKS = {
    "data": 0, "backbones": 0, "report": 0, "checking": 1, "tasks": 1, "adapters": 2,
    "regularizers": 2, "validators": 2, "modules": 3, "callbacks": 4, "settings": 5, "results": 5,
    "adaptation_faults": 5, "input_faults": 5, "task_faults": 5, "feature_plan": 5,
    "own_weights": 5, "building": 6, "extraction": 6, "finder": 6, "resuming": 6, "pipeline": 7,
    "brackets": 7,
    "sweeps": 7, "cli": 8, "adapting": 9, "tables": 9, "ledger": 1, "launching": 2, "slurm": 2,
    "search_space": 0, "tuning": 9, "trials": 9,
}  # fmt: skip


def imported(path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tl_lightning."):
            found.add(node.module.split(".")[1])
    return found


@pytest.mark.parametrize("room", [r for r in RANKS if (SOURCE / r).is_dir()])
def test_imports_run_one_way(room: str) -> None:
    for path in (SOURCE / room).rglob("*.py"):
        for other in imported(path) & RANKS.keys():
            assert RANKS[other] <= RANKS[room], f"{path.name} of {room} imports {other}"


def test_checking_knows_no_model() -> None:
    for path in (SOURCE / "checking").glob("*.py"):
        assert imported(path) <= {"checking", "data", "errors", "report", "types"}, path.name


def test_adapters_know_no_lightning() -> None:
    for path in (SOURCE / "adapters").glob("*.py"):
        assert "lightning." not in re.sub(r"tl_lightning\.", "", path.read_text()), path.name


def test_files_are_short() -> None:
    long = [p.name for p in SOURCE.rglob("*.py") if len(p.read_text().splitlines()) > 320]
    assert not long


def test_every_method_is_two_files() -> None:
    yamls = {p.stem for p in (REPO / "conf" / "adapter").glob("*.yaml")}
    files = {p.stem for p in (SOURCE / "adapters").glob("*.py")} - {"__init__", "base"}
    assert yamls == files
    tested = {p.stem.removeprefix("test_") for p in (REPO / "tests" / "adapters").glob("*.py")}
    assert yamls <= tested


def test_readme_tables_are_what_conf_holds() -> None:
    text = (REPO / "README.md").read_text()
    assert refreshed(text) == text, "run: make tables"


def test_a_new_method_appears_in_the_table(tmp_path) -> None:
    conf = tmp_path / "conf"
    shutil.copytree(REPO / "conf", conf)
    (conf / "adapter" / "foo.yaml").write_text("# @package adapter.foo\n# Foo does it. More.\n")
    assert "| `[foo]` | Foo does it. |" in table("adapter", conf)
    assert "| `[foo]` | Foo does it. |" in refreshed((REPO / "README.md").read_text(), conf)


def test_lost_marks_are_named() -> None:
    with pytest.raises(
        DataError, match=r"lost the marks of a table; put back <!-- table model -->"
    ):
        refreshed("# nothing")
    assert len(GROUPS) == 4
    assert sentence("# A b (Foo et al. 2016).\n# C.\nx: 1") == "A b (Foo et al. 2016)."


@pytest.mark.slow
def test_the_wheel_carries_conf(tmp_path) -> None:
    uv = shutil.which("uv", path=f"{sys.prefix}/bin") or shutil.which("uv")
    if uv is None:
        pytest.skip("no uv to build a wheel with")
    for name in ("src", "conf", "pyproject.toml", "README.md", "LICENSE"):
        place = REPO / name
        (shutil.copytree if place.is_dir() else shutil.copy)(place, tmp_path / name)
    done = subprocess.run(
        [uv, "build", "--wheel", "--quiet", "-o", str(tmp_path / "dist"), str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode and re.search(r"fetch|connect|resolve|network", done.stderr, re.IGNORECASE):
        pytest.skip("the build backend could not be fetched")
    assert done.returncode == 0, done.stderr
    names = zipfile.ZipFile(next((tmp_path / "dist").glob("*.whl"))).namelist()
    assert "tl_lightning/conf/train.yaml" in names
    assert "tl_lightning/report/templates/run.html.j2" in names
    assert "tl_lightning/conf/adapter/dann.yaml" in names
