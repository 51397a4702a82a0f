"""Rules of the project: imports, file lengths, generated tables, the wheel."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile

import pytest

from conftest import REPO
from layout import circles, imports
from readme_tables import GROUPS, refreshed, sentence, table
from tl_lightning.errors import DataError

SOURCE = REPO / "src" / "tl_lightning"

#: Packages in the order of imports: each may import itself and those before it. ``config`` knows no
#: part of the framework, ``config.validation`` knows them all.
ORDER = (
    "errors", "types", "utils", "schedules", "layers", "distributed", "config", "loggers", "data",
    "backbones", "losses", "tasks", "methods", "models", "selection", "reporting", "checkpoints",
    "callbacks", "config.validation", "training", "evaluation", "sweeps", "cli", "__main__",
)  # fmt: skip


def package(module: str) -> str:
    """Return the package of a module, as in ORDER.

    >>> package("tl_lightning.config.validation.check"), package("tl_lightning.errors")
    ('config.validation', 'errors')
    """
    inner = module.removeprefix("tl_lightning.")
    return "config.validation" if inner.startswith("config.validation") else inner.split(".")[0]


GRAPH = {name: found for name, found in imports(SOURCE).items() if name != "tl_lightning"}


@pytest.mark.parametrize("module", GRAPH)
def test_imports_run_one_way(module: str) -> None:
    for other in GRAPH[module] - {"tl_lightning"}:
        assert ORDER.index(package(other)) <= ORDER.index(package(module)), (module, other)


def test_no_module_imports_itself_through_others() -> None:
    assert circles(GRAPH) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


@pytest.mark.parametrize(("package", "foreign"), [
    ("methods", "lightning"), ("reporting", "torch"), ("reporting", "lightning"),
])  # fmt: skip
def test_a_package_does_without_a_library(package: str, foreign: str) -> None:
    for path in (SOURCE / package).rglob("*.py"):
        text = path.read_text()
        assert not re.search(rf"^\s*(?:import|from) {foreign}\b", text, re.MULTILINE), path


def test_data_checks_know_no_model() -> None:
    for module, others in GRAPH.items():
        if module.startswith("tl_lightning.data"):
            assert {package(o) for o in others} <= {*ORDER[: ORDER.index("data") + 1]}, module


def test_files_are_short() -> None:
    long = [p.name for p in SOURCE.rglob("*.py") if len(p.read_text().splitlines()) > 400]
    assert not long


def test_every_method_is_two_files() -> None:
    yamls = {p.stem for p in (REPO / "conf" / "adapter").glob("*.yaml")}
    files = {p.stem for p in (SOURCE / "methods").glob("*.py")} - {"__init__", "base"}
    assert yamls == files
    tested = {
        p.stem.removeprefix("test_") for p in (REPO / "tests" / "unit" / "methods").glob("*.py")
    }
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
    assert "tl_lightning/reporting/templates/run.html.j2" in names
    assert "tl_lightning/conf/adapter/dann.yaml" in names
