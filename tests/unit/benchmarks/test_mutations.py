"""The list of broken methods is one of methods as they are."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from conftest import REPO


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = REPO / "benchmarks" / "mutations.py"
    spec = importlib.util.spec_from_file_location("mutations", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutations"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_method_is_broken_in_three_ways_at_least(script) -> None:
    counts = Counter(one.method for one in script.mutations())
    assert counts.keys() == {path.stem for path in (REPO / "conf" / "method").glob("*.yaml")}
    assert min(counts.values()) >= 3


def test_every_text_stands_in_its_file_once_and_gives_code(script) -> None:
    changes = Counter()
    for one in script.mutations():
        whole = (REPO / script.PACKAGE / one.file).read_text()
        broken = one.broken(whole)
        assert ast.dump(ast.parse(broken)) != ast.dump(ast.parse(whole)), one.change
        changes[one.method, one.file, one.old, one.new] += 1
    assert set(changes.values()) == {1}


@pytest.mark.parametrize("text", ["b", "a b a"])
def test_words(script, text) -> None:
    mutation = script.Mutation("foo", "no a", "foo.py", "a", "b")
    with pytest.raises(
        script.MutationError, match=r"foo, 'no a': foo.py contains 'a' [02] times, expected once"
    ):
        mutation.broken(text)
    idle = script.Mutation("foo", "no a", "foo.py", "a", "a")
    with pytest.raises(script.MutationError, match=r"foo, 'no a': old and new text are identical"):
        idle.broken("a")


def test_the_copy_is_mended(script, tmp_path) -> None:
    file = tmp_path / script.PACKAGE / "foo.py"
    file.parent.mkdir(parents=True)
    file.write_text("a")
    with script.put_in(script.Mutation("foo", "no a", "foo.py", "a", "b"), tmp_path):
        assert file.read_text() == "b"
    assert file.read_text() == "a"


#: In a process that has not loaded the package, as the script's own.
ASK = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import mutations
try:
    print(*mutations.failing(Path(sys.argv[2]), sys.argv[3:]))
except mutations.MutationError as fault:
    print("fault:", fault)
"""


def asked(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-c", ASK, str(REPO / "benchmarks"), str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.slow
def test_a_failing_test_is_named_and_one_that_cannot_run_is_no_catch(tmp_path) -> None:
    file = tmp_path / "test_foo.py"
    file.write_text("def test_a():\n    assert 0\n\n\ndef test_b():\n    assert 0\n")
    assert asked(tmp_path, "test_foo.py") == "test_foo.py::test_a test_foo.py::test_b"
    assert asked(tmp_path, "-x", "test_foo.py") == "test_foo.py::test_a"
    file.write_text("def test_a():\n    pass\n")
    assert asked(tmp_path, "-x", "test_foo.py") == ""
    assert asked(tmp_path, "test_foo.py", "-k", "nothing") == ""
    file.write_text("import nothing_of_the_kind\n")
    said = asked(tmp_path, "test_foo.py")
    assert said.startswith("fault: pytest test_foo.py: test_foo.py")
    assert "No module named 'nothing_of_the_kind'" in said


def test_a_survivor_stands_out(script) -> None:
    one = script.Mutation("foo", "no a", "foo.py", "a", "b")
    table = script.shown([(one, "tests/unit/methods/test_foo.py::test_a"), (one, None)])
    assert table.splitlines()[2:] == [
        "| foo | no a | `unit/methods/test_foo.py::test_a` |",
        "| foo | no a | **nothing** |",
    ]
