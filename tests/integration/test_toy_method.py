"""A new method needs only two files: it runs, and the contract tests include it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from conftest import REPO, TINY

TOY = '''"""Foo: the squared distance of the domains' mean features."""

from tl_lightning.methods.base import Penalty


class Foo(Penalty):
    """Mean matching."""

    def loss(self, views, ctx):
        """Return the squared distance between the means."""
        source, target = (views[role].features for role in ("source", "target"))
        return (source.mean(0) - target.mean(0)).square().sum()
'''
YAML = """# @package method.foo
# Foo matches means.
_target_: tl_lightning.methods.foo.Foo
weight: 1.0
ramp: none
gather: false
"""


OVERRIDES = ["model=domain_adaptation", "method=[foo,dann]"]


@pytest.mark.slow
def test_a_method_needs_only_two_files(tmp_path) -> None:
    for name in ("src", "conf", "scripts", "tests", "pyproject.toml", "README.md"):
        path = REPO / name
        ignore = shutil.ignore_patterns("__pycache__")
        if path.is_dir():
            shutil.copytree(path, tmp_path / name, ignore=ignore)
        else:
            shutil.copy(path, tmp_path / name)
    (tmp_path / "src/tl_lightning/methods/foo.py").write_text(TOY)
    (tmp_path / "conf/method/foo.yaml").write_text(YAML)
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "src"), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "scripts/train.py", *TINY, *OVERRIDES],
        cwd=tmp_path, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert (next((tmp_path / "outputs").rglob("report.html"))).is_file()
    metrics = next((tmp_path / "outputs").rglob("metrics.csv")).read_text()
    assert "train/foo" in metrics.splitlines()[0]
    contract = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/contract", "-k", "foo"],
        cwd=tmp_path, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert contract.returncode == 0, contract.stdout[-3000:]
    assert "passed" in contract.stdout
