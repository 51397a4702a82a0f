"""Files of a release: citation, licences, container, workflow, and one place for the version."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import licences
import matrix
from conftest import REPO
from matrix import Row
from tl_lightning import __version__

PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
#: Instructions of a Dockerfile.
INSTRUCTIONS = {"FROM", "RUN", "WORKDIR", "COPY", "ENV", "CMD"}
#: Names of servers other than those that a workflow or an image needs by itself.
HOSTS = re.compile(r"https?://|pypi\.org|ghcr\.io|docker\.io", re.IGNORECASE)


def test_the_citation_names_the_version_and_the_licence_of_the_package() -> None:
    found = yaml.safe_load((REPO / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "version"} <= set(found)
    assert found["version"] == __version__
    assert found["license"] == PROJECT["license"]
    assert all({"name"} <= set(author) or "family-names" in author for author in found["authors"])


def test_the_page_of_licences_lists_every_direct_dependency() -> None:
    text = licences.PAGE.read_text()
    listed = set(re.findall(r"^\| ([\w.-]+) \|", text, re.M)) - {"package"}
    parts = [PROJECT["dependencies"], *(
        packages for extra, packages in PROJECT["optional-dependencies"].items()
        if extra not in licences.LEFT_OUT
    )]  # fmt: skip
    direct = {canonicalize_name(Requirement(one).name) for part in parts for one in part}
    assert direct <= listed, f"{direct - listed} are missing; run: make tables EXTRAS=dev,all"
    assert text.startswith(licences.TEXT)


def test_licences_of_installed_packages_are_those_of_the_page() -> None:
    rows = re.findall(r"^\| ([\w.-]+) \| (.+?) \|", licences.PAGE.read_text(), re.M)
    known = dict(rows)
    for name in ("torch", "lightning", "hydra-core", "numpy", "timm"):
        assert licences.licence_of(distribution(name)) == known[name]


def dockerfile() -> list[str]:
    """Return the instructions of the Dockerfile with their continuation lines."""
    text = re.sub(r"^#.*\n", "", (REPO / "Dockerfile").read_text(), flags=re.M)
    return [line for line in re.sub(r"\\\n\s*", "", text).splitlines() if line]


def test_the_container_runs_the_two_commands() -> None:
    lines = dockerfile()
    assert {line.split()[0] for line in lines} <= INSTRUCTIONS
    assert lines[0].startswith("FROM python:3.")
    assert json.loads(lines[-1].removeprefix("CMD ")) == ["make", "demo"]
    targets = set(re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(), re.M))
    used = {found for line in lines for found in re.findall(r"\bmake (?!\\)([a-z-]+)", line)}
    assert used - {"&&"} <= targets
    assert "make test" in (REPO / "Dockerfile").read_text()
    version = lines[0].removeprefix("FROM python:").partition("-")[0]
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]


def test_the_container_of_editors_is_built_from_the_dockerfile() -> None:
    found = json.loads((REPO / ".devcontainer" / "devcontainer.json").read_text())
    folder = REPO / ".devcontainer"
    assert (folder / found["build"]["dockerfile"]).resolve() == REPO / "Dockerfile"
    assert (folder / found["build"]["context"]).resolve() == REPO
    assert found["postCreateCommand"] == "make install"
    # The environment of the image is another one, in front of which that of the workspace must be.
    path = found["remoteEnv"]["PATH"].split(":", 1)
    assert path == ["${containerWorkspaceFolder}/.venv/bin", "${containerEnv:PATH}"]


def test_the_workflow_calls_the_check_on_every_supported_python() -> None:
    found = yaml.safe_load((REPO / ".github" / "workflows" / "ci.yml").read_text())
    check = found["jobs"]["check"]
    assert [step["run"] for step in check["steps"] if "run" in step] == [".ci/run"]
    supported = [one.rpartition(" ")[2] for one in PROJECT["classifiers"] if ":: 3." in one]
    assert check["strategy"]["matrix"]["python"] == supported
    commands = [step.get("run", "") for step in found["jobs"]["install"]["steps"]]
    assert "tl-train model=dann data=digits trainer.max_epochs=1" in commands


@pytest.mark.parametrize("name", [
    "Dockerfile", ".devcontainer/devcontainer.json", ".github/workflows/ci.yml", "CITATION.cff",
    "docs/licences.md",
])  # fmt: skip
def test_no_server_is_named(name: str) -> None:
    assert HOSTS.findall((REPO / name).read_text()) == []


def test_lowest_versions_name_the_requirements_of_the_project() -> None:
    """Else uv would take the lowest version of the project alone, and the newest of the others."""
    words = matrix.lowest(Row("3.11", "uv", "wheel", "all", "lowest"))
    assert words[:2] == ["--resolution", "lowest-direct"]
    assert set(matrix.PROJECT["dependencies"]) < set(words)
    assert "optuna>=4" in words
    assert matrix.lowest(Row("3.11", "uv", "wheel", "all", "newest")) == []
    plain = matrix.lowest(Row("3.11", "uv", "wheel", "none", "lowest"))
    assert "optuna>=4" not in plain


def test_the_matrix_has_every_python_installer_and_extra() -> None:
    rows = matrix.rows()
    assert len(set(rows)) == len(rows)
    plain = {(row.python, row.by) for row in rows if row.extras == "none"}
    assert plain == set(itertools.product(matrix.PYTHONS, ("uv", "pip")))
    lowest = {(row.python, row.extras) for row in rows if row.versions == "lowest"}
    assert lowest == set(itertools.product(matrix.PYTHONS, ("none", "all")))
    assert {row.extras for row in rows} - {"none", "all"} == set(matrix.EXTRAS)
    assert {row.archive for row in rows} == {"wheel", "sdist"}
    assert set(matrix.USES) == set(matrix.EXTRAS)
    assert Row("3.11", "uv", "wheel", "all", "newest").uses() == matrix.EXTRAS
    assert Row("3.11", "uv", "wheel", "none", "newest").uses() == []


def test_rows_of_the_matrix_that_have_results_are_not_repeated(tmp_path, capsys, monkeypatch):
    def result(row: Row, archives: dict[str, Path]) -> dict[str, Any]:
        problems = {"install": "no network"} if row.by == "pip" else {}
        return dataclasses.asdict(row) | {"install_s": 12.3, "problems": problems}

    monkeypatch.setattr(matrix, "build", lambda folder: {})
    monkeypatch.setattr(matrix, "measured", result)
    arguments = ["--results", str(tmp_path / "results.jsonl"), "--only"]
    with pytest.raises(SystemExit, match="False"):
        matrix.main([*arguments, "3.11 uv wheel none newest"])
    with pytest.raises(SystemExit, match="True"):
        matrix.main([*arguments, "3.11 (uv|pip) wheel none newest"])
    done = capsys.readouterr().out
    assert done.count("3.11 uv wheel none newest\n") == 1
    assert done.rstrip().endswith(
        "| 3.11 | pip | wheel | none | newest |  |  | 12 |  |  | no: install |"
    )
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 2


def test_a_row_of_the_matrix_without_an_interpreter_has_not_passed(monkeypatch) -> None:
    monkeypatch.setattr(matrix, "interpreter", lambda version: None)
    found = matrix.measured(Row("3.99", "uv", "wheel", "none", "newest"), {})
    assert found["problems"] == {"python": "no such interpreter on this machine"}
    assert "passed" in matrix.table([found])
    assert "| no: python |" in matrix.table([found])
