"""Mutation testing of the adaptation methods.

    python benchmarks/mutations.py                 # all mutations, takes some minutes
    python benchmarks/mutations.py --only mcd      # those of one method

`benchmarks/mutations.yaml` lists the mutations of every method: a piece of its code, or of code
that it uses, and the replacement. Each mutation is applied on its own to a copy of the repository,
and the tests of the method are run until one fails (`tests/unit/methods`, then `tests/contract`).
The script exits with 1 if a mutation survives, that is, no test detects it, or if a test that
detected a mutation also fails on the unchanged code.
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
# Imported before forking, which saves seconds per mutation; the package itself is not included.
SLOW = (
    "torch", "torchvision", "lightning", "torchmetrics", "timm", "hydra", "sklearn.linear_model",
    "scipy.stats", "scipy.optimize", "matplotlib.pyplot", "imagehash", "rich", "safetensors.torch",
)  # fmt: skip
PROCESSES = multiprocessing.get_context("fork")
OUTPUT = "output.txt"
PARTS = ("src", "conf", "tests", "scripts", "pyproject.toml", "README.md")


class MutationError(Exception):
    """A mutation that cannot be applied or tested."""


@dataclass(frozen=True)
class Mutation:
    """A single change to the code.

    Attributes:
        method: Name of the method's YAML file in conf/method.
        change: Description of the change.
        file: Path below src/tl_lightning.
        old: Text to replace, which occurs exactly once in the file.
        new: Replacement.
    """

    method: str
    change: str
    file: str
    old: str
    new: str

    def broken(self, text: str) -> str:
        """Return the text of the file with the mutation applied.

        Raises:
            MutationError: If the old text does not occur exactly once, or equals the new one.
        """
        count = text.count(self.old)
        if count != 1:
            raise MutationError(
                f"{self.method}, {self.change!r}: {self.file} contains {self.old!r} {count} times, "
                f"expected once; update the text in {TABLE.name}"
            )
        if self.new == self.old:
            raise MutationError(f"{self.method}, {self.change!r}: old and new text are identical")
        return text.replace(self.old, self.new)


def mutations(table: Path = TABLE) -> list[Mutation]:
    """Return the mutations in the table; the default file is the module of the method."""
    return [
        Mutation(method, **{"file": f"methods/{method}.py", **entry})
        for method, entries in yaml.safe_load(table.read_text()).items()
        for entry in entries
    ]


def copied(folder: Path) -> Path:
    """Copy everything that the tests need into ``folder`` and return it."""
    for name in PARTS:
        path = REPO / name
        if path.is_dir():
            shutil.copytree(path, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, folder / name)
    # By content, because versions of a file within a second can have the same time and size.
    mode = py_compile.PycInvalidationMode.CHECKED_HASH
    compileall.compile_dir(folder / "src", quiet=1, invalidation_mode=mode)
    return folder


@contextmanager
def put_in(mutation: Mutation, copy: Path) -> Iterator[None]:
    """Apply a mutation to the copy, and revert it afterwards."""
    path = copy / PACKAGE / mutation.file
    original = path.read_text()
    path.write_text(mutation.broken(original))
    try:
        yield
    finally:
        path.write_text(original)


class Watcher:
    """Pytest plugin that records failed tests and errors in setup or collection."""

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
    """Run pytest in the copy; called in a subprocess."""
    paths = [str(copy / "src"), str(copy / "tests")]
    os.chdir(copy)
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    sys.path[:0] = paths
    sys.dont_write_bytecode = True
    output = os.open(copy / OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    watcher = Watcher()
    # Plain asserts: modules that are already loaded cannot be rewritten.
    options = ["--assert=plain", "-p", "no:cacheprovider", "--tb=short"]
    code = pytest.main([*options, *arguments], plugins=[watcher])
    package = sys.modules.get("tl_lightning")
    if package is not None and not str(package.__file__).startswith(str(copy)):
        watcher.errors.append(f"{package.__file__} is not in the copy")
    answer.send((int(code), watcher.failed, watcher.errors))


def failing(copy: Path, arguments: list[str], seconds: float = 300) -> list[str]:
    """Return the tests that fail in the copy; with ``-x`` in the arguments, only the first one.

    Raises:
        MutationError: If the tests could not be run, which must not count as detection.
    """
    receiver, sender = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=_tests, args=(copy, arguments, sender))
    process.start()
    sender.close()
    try:
        code, failed, errors = receiver.recv() if receiver.poll(seconds) else (-1, [], ["timeout"])
    except EOFError:
        code, failed, errors = -1, [], ["the process died"]
    finally:
        process.kill()
        process.join()
    # 5: no test was selected, as for methods without a loss term.
    if errors or code not in (0, 1, 5):
        output = (copy / OUTPUT).read_text()[-3000:]
        raise MutationError(f"pytest {' '.join(arguments)}: {', '.join(errors) or code}\n{output}")
    return list(failed)


def noticed(mutation: Mutation, copy: Path) -> str | None:
    """Return the first test that fails with the mutation, or None."""
    method = mutation.method
    with put_in(mutation, copy):
        for arguments in (
            [f"tests/unit/methods/test_{method}.py"],
            ["tests/contract", "-k", f"[{method}] or -{method}]"],
        ):
            failed = failing(copy, ["-x", *arguments])
            if failed:
                return failed[0]
    return None


def shown(rows: list[tuple[Mutation, str | None]]) -> str:
    """Return a Markdown table of the mutations and the tests that detect them."""
    lines = ["| method | mutation | detected by |", "|---|---|---|"]
    for mutation, test in rows:
        detected = "**nothing**" if test is None else f"`{test.removeprefix('tests/')}`"
        lines.append(f"| {mutation.method} | {mutation.change} | {detected} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", metavar="METHOD", help="only mutations of these methods"
    )
    args = parser.parse_args()
    table = mutations()
    unknown = set(args.only or ()) - {mutation.method for mutation in table}
    if unknown:
        sys.exit(f"{TABLE.name} has no mutation of {', '.join(sorted(unknown))}")
    chosen = [mutation for mutation in table if not args.only or mutation.method in args.only]
    for mutation in chosen:  # report invalid entries before running any test
        mutation.broken((REPO / PACKAGE / mutation.file).read_text())
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in SLOW:
        importlib.import_module(name)
    rows = []
    with tempfile.TemporaryDirectory() as text:
        copy = copied(Path(text))
        for mutation in chosen:
            test = noticed(mutation, copy)
            rows.append((mutation, test))
            print(f"{mutation.method}: {mutation.change}: {test}", file=sys.stderr, flush=True)
        tests = sorted({test for _, test in rows if test is not None})
        unrelated = failing(copy, tests, seconds=1800) if tests else []
    print(shown(rows))
    survived = [mutation for mutation, test in rows if test is None]
    print(f"\n{len(rows)} mutations, {len(rows) - len(survived)} detected.")
    for test in unrelated:
        print(f"also fails on the unchanged code: {test}")
    sys.exit(1 if survived or unrelated else 0)


if __name__ == "__main__":
    main()
