"""A method is two files and nothing else: it runs, and the contract tests pick it up."""

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
        """Return the distance of the means."""
        source, target = (views[role].features for role in ("source", "target"))
        return (source.mean(0) - target.mean(0)).square().sum()
'''
YAML = """# @package adapter.foo
# Foo matches means.
_target_: tl_lightning.methods.foo.Foo
weight: 1.0
ramp: none
gather: false
"""


CHOICE = ["model=domain_adaptation", "adapter=[foo,dann]"]


@pytest.mark.slow
def test_two_files_make_a_method(tmp_path) -> None:
    for name in ("src", "conf", "scripts", "tests", "pyproject.toml", "README.md"):
        place = REPO / name
        ignore = shutil.ignore_patterns("__pycache__")
        if place.is_dir():
            shutil.copytree(place, tmp_path / name, ignore=ignore)
        else:
            shutil.copy(place, tmp_path / name)
    (tmp_path / "src/tl_lightning/methods/foo.py").write_text(TOY)
    (tmp_path / "conf/adapter/foo.yaml").write_text(YAML)
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "src"), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "scripts/train.py", *TINY, *CHOICE],
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
