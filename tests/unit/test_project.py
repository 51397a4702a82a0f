"""Project rules: import order, file lengths, generated tables, contents of the wheel."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

from conftest import REPO
from layout import circles, imports
from tables import GROUPS, PAGE, RANKS, refreshed, sentence, table, with_ranks
from tl_lightning.errors import DataError

SOURCE = REPO / "src" / "tl_lightning"

#: Packages in import order: each may import itself and the packages before it. ``config`` does not
#: depend on the framework, ``config.validation`` depends on all of it.
ORDER = (
    "errors", "types", "utils", "schedules", "layers", "config", "distributed", "loggers", "data",
    "backbones", "losses", "tasks", "methods", "models", "selection", "reliability", "reporting",
    "checkpoints", "callbacks", "config.validation", "training", "evaluation", "inference",
    "sweeps", "api", "cli", "__main__",
)  # fmt: skip


def package(module: str) -> str:
    """Return the package of a module, as named in ORDER.

    >>> package("tl_lightning.config.validation.check"), package("tl_lightning.errors")
    ('config.validation', 'errors')
    """
    name = module.removeprefix("tl_lightning.")
    return "config.validation" if name.startswith("config.validation") else name.split(".")[0]


#: Without the package itself, which imports everything on first use.
ROOT = "tl_lightning"
GRAPH = {name: names - {ROOT} for name, names in imports(SOURCE).items() if name != ROOT}


@pytest.mark.parametrize("module", GRAPH)
def test_imports_follow_the_package_order(module: str) -> None:
    for other in GRAPH[module]:
        assert ORDER.index(package(other)) <= ORDER.index(package(module)), (module, other)


def test_no_import_cycles() -> None:
    assert circles(GRAPH) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


@pytest.mark.parametrize(("package", "library"), [
    ("methods", "lightning"), ("reporting", "torch"), ("reporting", "lightning"),
])  # fmt: skip
def test_package_does_not_import_library(package: str, library: str) -> None:
    for path in (SOURCE / package).rglob("*.py"):
        text = path.read_text()
        assert not re.search(rf"^\s*(?:import|from) {library}\b", text, re.MULTILINE), path


#: Modules of the standard library that do not exist on Windows.
POSIX = {"fcntl", "grp", "pwd", "resource", "syslog", "termios", "tty", "pty", "posix"}


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: path.stem)
def test_modules_that_do_not_exist_on_windows_are_not_required(path) -> None:
    """No command could start there; inside a function or ``try`` they may be imported."""
    assert not POSIX & set(required(path.read_text()))


def required(text: str) -> list[str]:
    """Return the modules that a file imports unconditionally."""
    names = []
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import):
            names += [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(str(node.module).split(".")[0])
    return names


def test_a_required_module_is_found() -> None:
    assert required("import fcntl\nfrom pwd import a\nif b:\n    import c") == ["fcntl", "pwd"]


def test_data_package_does_not_depend_on_models() -> None:
    allowed = set(ORDER[: ORDER.index("data") + 1])
    for module, others in GRAPH.items():
        if module.startswith("tl_lightning.data"):
            assert {package(other) for other in others} <= allowed, module


#: A single class that would have to be split for no other reason than the limit.
LONG = {"data/datamodules/base.py", "models/base.py"}


def test_source_files_have_at_most_400_lines() -> None:
    lines = {str(p.relative_to(SOURCE)): len(p.read_text().splitlines())
             for p in SOURCE.rglob("*.py")}  # fmt: skip
    assert {name for name, count in lines.items() if count > 400} == LONG
    assert all(lines[name] <= 500 for name in LONG)


def test_design_page_names_every_package_and_a_short_reading_list() -> None:
    text = (REPO / "docs" / "design.md").read_text()
    first, packages = text.split("## Packages")
    listed = re.findall(r"`((?:src/tl_lightning/)?[a-z_/]+\.py)`", first)
    assert len(listed) >= 6
    files = [SOURCE / name.removeprefix("src/tl_lightning/") for name in listed]
    assert sum(len(file.read_text().splitlines()) for file in files) <= 1500
    table = packages.split("## Decisions")[0]
    for path in SOURCE.iterdir():
        if path.is_dir() and any(path.glob("*.py")):
            assert f"`{path.name}/`" in table, path


def test_every_method_has_a_module_a_yaml_and_a_test() -> None:
    yamls = {p.stem for p in (REPO / "conf" / "method").glob("*.yaml")}
    modules = {p.stem for p in (SOURCE / "methods").glob("*.py")} - {"__init__", "base"}
    assert yamls == modules
    tests = {
        p.stem.removeprefix("test_") for p in (REPO / "tests" / "unit" / "methods").glob("*.py")
    }
    assert yamls <= tests


def test_tables_of_choices_are_up_to_date() -> None:
    text = (REPO / PAGE).read_text()
    assert refreshed(text) == text, "run: make tables"


def test_the_table_of_ranks_is_up_to_date() -> None:
    text = (REPO / RANKS).read_text()
    assert text == with_ranks(text), "run make tables"


def test_new_method_appears_in_the_table(tmp_path) -> None:
    conf = tmp_path / "conf"
    shutil.copytree(REPO / "conf", conf)
    (conf / "method" / "foo.yaml").write_text("# @package method.foo\n# Foo does it. More.\n")
    assert "| `[foo]` | Foo does it. |" in table("method", conf)
    assert "| `[foo]` | Foo does it. |" in refreshed((REPO / PAGE).read_text(), conf)


def test_missing_table_marks_are_an_error() -> None:
    with pytest.raises(DataError, match=r"table markers not found; restore <!-- table model -->"):
        refreshed("# nothing")
    assert len(GROUPS) == 4
    assert sentence("# A b (Foo et al. 2016).\n# C.\nx: 1") == "A b (Foo et al. 2016)."


@pytest.mark.slow
def test_wheel_contains_conf_and_templates(tmp_path) -> None:
    uv = shutil.which("uv", path=f"{sys.prefix}/bin") or shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed")
    for name in ("src", "conf", "pyproject.toml", "README.md", "LICENSE"):
        path = REPO / name
        (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / name)
    done = subprocess.run(
        [uv, "build", "--wheel", "--quiet", "-o", str(tmp_path / "dist"), str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode and re.search(r"fetch|connect|resolve|network", done.stderr, re.IGNORECASE):
        pytest.skip("the build backend could not be downloaded")
    assert done.returncode == 0, done.stderr
    names = zipfile.ZipFile(next((tmp_path / "dist").glob("*.whl"))).namelist()
    assert "tl_lightning/conf/train.yaml" in names
    assert "tl_lightning/reporting/templates/run.html.j2" in names
    assert "tl_lightning/conf/method/dann.yaml" in names
