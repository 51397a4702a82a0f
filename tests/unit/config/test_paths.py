"""Choices of a group that do not exist, and groups that a run cannot do without."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from helpers import command
from tl_lightning.config.paths import choices, file_problems, folder_problem, group_problems


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model=dannn", "model=dannn is not a choice of conf/model/; did you mean 'dann'?"),
        ("model=dann,sorce_only", "conf/model/; did you mean 'source_only'?"),
        ("method=[dann,mcx]", "method=[dann,mcx] is not a choice of conf/method/; did you mean"),
        ("loss=null", "loss=null is not a choice of conf/loss/; valid: absolute_error, "),
        ("~data", "~data: a run needs data=<name>; valid: cifar10"),
        ("+debug=fdr", "+debug=fdr is not a choice of conf/debug/; valid: default, limit"),
    ],
)
def test_refused(override, message) -> None:
    (problem,) = group_problems([override])
    assert message in problem


@pytest.mark.parametrize(
    "arguments",
    [
        ["model=dann,source_only", "method=[dann,mcc]", "method=[]"],
        ["~head", "+head._target_=my.Head"],
        ["model=mine", "--config-dir=conf"],
        ["model=mine", "hydra.searchpath=[file:///conf]"],
        ["hydra/launcher=basic", "~callbacks.lr_monitor", "experiment=null", "data.root=/x"],
        ["+aux_task@aux_tasks.colour=classification", "model=${x}"],
    ],
)
def test_accepted(arguments) -> None:
    assert group_problems(arguments) == []


def test_choices_leave_out_shared_files() -> None:
    assert "_base" not in choices("data")
    assert choices("nothing") == []


@pytest.mark.slow
def test_a_removed_group_is_one_sentence_on_the_command_line(tmp_path) -> None:
    run = command("train", ["~model"], tmp_path)
    assert run.returncode == 2
    assert run.stderr.startswith("error: ~model: a run needs model=<name>; valid: align, auto")
    assert not (tmp_path / "outputs").exists()


def test_folder_that_cannot_be_created_is_reported(tmp_path) -> None:
    """Also where only the attempt tells, as in /proc."""
    (tmp_path / "file").touch()
    old = sys.version_info < (3, 13)
    null = "embedded null byte" if old else "mkdir: embedded null character in path"
    for folder, reason in (
        (tmp_path / "file" / "x", f"{tmp_path}/file is not a folder"),
        (tmp_path / ("x" * 300), "cannot be created (File name too long)"),
        (tmp_path / "a\0b", f"cannot be created ({null})"),
        *([(Path("/proc/x"), "/proc/x cannot be created")] if os.path.isdir("/proc/self") else []),
    ):
        problem = folder_problem(folder, "out")
        assert problem.startswith(f"cannot create out={folder}: ")
        assert reason in problem
    assert not folder_problem(tmp_path / "a" / "b", "out")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
@pytest.mark.parametrize(("name", "arguments"), [
    ("train", ["hydra.run.dir=/proc/x"]),
    ("tune", ["tune.dir=/proc/x", "optimizer.lr=log(1e-4,1e-2)"]),
    ("extract_features", ["data=digits", "out=/proc/x"]),
    ("write_shards", ["data=digits", "out=/proc/x"]),
    ("activation_study", ["out=/proc/x"]),
])  # fmt: skip
def test_every_command_checks_its_folder_first(name, arguments, tmp_path) -> None:
    run = command(name, arguments, tmp_path)
    assert run.returncode == 2
    assert run.stderr.startswith("error: cannot create ")


def test_configuration_files_that_cannot_be_read_are_named(tmp_path) -> None:
    (tmp_path / "good.yaml").write_text("a: ${b}\n")
    assert file_problems(["-cp", str(tmp_path), "seed=1"]) == []
    (tmp_path / "tag.yaml").write_text("a: !!python/object/apply:os.system ['exit 1']")
    for arguments in (["-cp", str(tmp_path)], [f"--config-dir={tmp_path}"]):
        (problem,) = file_problems(arguments)
        assert problem.startswith(f"{tmp_path}/tag.yaml cannot be read (could not determine a con")
