"""Break every adaptation method on purpose and show which test notices.

    python benchmarks/mutations.py                 # all of them, some minutes
    python benchmarks/mutations.py --only mcd      # those of one method

`benchmarks/mutations.yaml` says what is broken: for every method some texts of its code, or of code
that it leans on, and what stands there instead. Each is put into a copy of the repository, alone,
and the method's own tests run until one fails (`tests/unit/methods`, then `tests/contract`). A change
that no test notices survives: the script names it and ends with 1. So it does where a test that
noticed something fails on the code as it is.
"""

from __future__ import annotations

import argparse
import compileall
import importlib
import multiprocessing
import os
import py_compile
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).resolve().parents[1]
TABLE = Path(__file__).with_suffix(".yaml")
PACKAGE = "src/tl_lightning"
# A fork finds them loaded: seconds saved for every change. Nothing of the package is among them.
SLOW = (
    "torch", "torchvision", "lightning", "torchmetrics", "timm", "hydra", "sklearn.linear_model",
    "scipy.stats", "scipy.optimize", "matplotlib.pyplot", "imagehash", "rich", "safetensors.torch",
)  # fmt: skip
PROCESSES = multiprocessing.get_context("fork")
SAID = "said.txt"
PARTS = ("src", "conf", "tests", "scripts", "pyproject.toml", "README.md")


class MutationError(Exception):
    """A change that cannot be made, or that no test could judge."""


@dataclass(frozen=True)
class Mutation:
    """One thing that is broken.

    Attributes:
        method: Name of its yaml in conf/adapter.
        words: What is broken, for people.
        file: Below src/tl_lightning.
        old: Text that stands there exactly once.
        new: What takes its place.
    """

    method: str
    words: str
    file: str
    old: str
    new: str

    def broken(self, text: str) -> str:
        """Return the file's text with the change made.

        Raises:
            MutationError: If the old text is not there exactly once, or is no change.
        """
        found = text.count(self.old)
        if found != 1:
            raise MutationError(
                f"{self.method}, {self.words!r}: {self.file} holds {self.old!r} {found} times, not "
                f"once; write the text as it stands there in {TABLE.name}"
            )
        if self.new == self.old:
            raise MutationError(f"{self.method}, {self.words!r}: old and new are the same text")
        return text.replace(self.old, self.new)


def mutations(table: Path = TABLE) -> list[Mutation]:
    """Return what the table holds; a change without a file is one of the method's own."""
    return [
        Mutation(method, **{"file": f"methods/{method}.py", **entry})
        for method, entries in yaml.safe_load(table.read_text()).items()
        for entry in entries
    ]


def copied(folder: Path) -> Path:
    """Copy what the tests need into ``folder`` and return it."""
    for name in PARTS:
        whole = REPO / name
        if whole.is_dir():
            shutil.copytree(whole, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(whole, folder / name)
    # By content: two versions of a file within a second and of a size must not be confused.
    mode = py_compile.PycInvalidationMode.CHECKED_HASH
    compileall.compile_dir(folder / "src", quiet=1, invalidation_mode=mode)
    return folder


@contextmanager
def put_in(mutation: Mutation, copy: Path) -> Iterator[None]:
    """Break the copy, and mend it afterwards."""
    path = copy / PACKAGE / mutation.file
    whole = path.read_text()
    path.write_text(mutation.broken(whole))
    try:
        yield
    finally:
        path.write_text(whole)


class Watcher:
    """What pytest reports: tests that fail, and errors around them."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.errors: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and report.when == "call":
            self.failed.append(report.nodeid)
        elif report.failed:
            self.errors.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.errors.append(report.nodeid)


def _tests(copy: Path, arguments: list[str], answer: Connection) -> None:
    """Run pytest in the copy, in a process of its own."""
    places = [str(copy / "src"), str(copy / "tests")]
    os.chdir(copy)
    os.environ["PYTHONPATH"] = os.pathsep.join(places)
    sys.path[:0] = places
    sys.dont_write_bytecode = True
    said = os.open(copy / SAID, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(said, 1)
    os.dup2(said, 2)
    watcher = Watcher()
    # Plain: what is loaded already cannot be rewritten, and nobody reads the asserts' values.
    options = ["--assert=plain", "-p", "no:cacheprovider", "--tb=short"]
    code = pytest.main([*options, *arguments], plugins=[watcher])
    package = sys.modules.get("tl_lightning")
    if package is not None and not str(package.__file__).startswith(str(copy)):
        watcher.errors.append(f"{package.__file__} is not of the copy")
    answer.send((int(code), watcher.failed, watcher.errors))


def failing(copy: Path, arguments: list[str], seconds: float = 300) -> list[str]:
    """Return the tests that fail there, the first one only where ``-x`` is among the arguments.

    Raises:
        MutationError: If tests could not be run at all: that would look like being noticed.
    """
    here, there = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=_tests, args=(copy, arguments, there))
    process.start()
    there.close()
    try:
        code, failed, errors = here.recv() if here.poll(seconds) else (-1, [], ["too late"])
    except EOFError:
        code, failed, errors = -1, [], ["the process died"]
    finally:
        process.kill()
        process.join()
    # 5: no test has that name, as where a method has no terms.
    if errors or code not in (0, 1, 5):
        said = (copy / SAID).read_text()[-3000:]
        raise MutationError(f"pytest {' '.join(arguments)}: {', '.join(errors) or code}\n{said}")
    return list(failed)


def noticed(mutation: Mutation, copy: Path) -> str | None:
    """Return the first test that fails with the change made, or None."""
    method = mutation.method
    with put_in(mutation, copy):
        for arguments in (
            [f"tests/unit/methods/test_{method}.py"],
            ["tests/contract", "-k", f"[{method}] or -{method}]"],
        ):
            found = failing(copy, ["-x", *arguments])
            if found:
                return found[0]
    return None


def shown(rows: list[tuple[Mutation, str | None]]) -> str:
    """Return a Markdown table of what was broken and who noticed."""
    lines = ["| method | broken | caught by |", "|---|---|---|"]
    for mutation, test in rows:
        caught = "**nothing**" if test is None else f"`{test.removeprefix('tests/')}`"
        lines.append(f"| {mutation.method} | {mutation.words} | {caught} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="those of these methods")
    args = parser.parse_args()
    every = mutations()
    unknown = set(args.only or ()) - {one.method for one in every}
    if unknown:
        sys.exit(f"{TABLE.name} breaks no method named {', '.join(sorted(unknown))}")
    chosen = [one for one in every if not args.only or one.method in args.only]
    for one in chosen:  # said at once, not after minutes
        one.broken((REPO / PACKAGE / one.file).read_text())
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in SLOW:
        importlib.import_module(name)
    rows = []
    with tempfile.TemporaryDirectory() as text:
        copy = copied(Path(text))
        for one in chosen:
            rows.append((one, noticed(one, copy)))
            print(f"{one.method}: {one.words}: {rows[-1][1]}", file=sys.stderr, flush=True)
        tests = sorted({test for _, test in rows if test is not None})
        liars = failing(copy, tests, seconds=1800) if tests else []
    print(shown(rows))
    survived = [one for one, test in rows if test is None]
    print(f"\n{len(rows)} changes, {len(rows) - len(survived)} caught.")
    for test in liars:
        print(f"fails on the code as it is: {test}")
    sys.exit(1 if survived or liars else 0)


if __name__ == "__main__":
    main()
