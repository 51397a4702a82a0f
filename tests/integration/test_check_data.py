"""The data check as a command, run from another folder."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from conftest import REPO
from helpers import command
from layouts import planted_problems, split_folders, two_domains
from tl_lightning.cli import check_data
from tl_lightning.errors import ConfigError

SOURCE_ONLY = ["model=source_only", "data=dogs", "data.batch_size=4"]


def check(cwd, *arguments: str) -> subprocess.CompletedProcess[str]:
    return command("check_data", arguments, cwd, COLUMNS="100", PYTHONIOENCODING="utf-8")


def roots(root) -> list[str]:
    return [*SOURCE_ONLY, f"data.root={root / 'source'}", f"data.target.root={root / 'target'}"]


def test_all_planted_problems_are_named_and_training_would_stop(tmp_path):
    planted = planted_problems(tmp_path / "data")
    assert len(planted) >= 12
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    done = check(cwd, *roots(tmp_path / "data"))
    assert done.returncode == 1, done.stderr
    for path in planted.values():
        name = str(path.relative_to(tmp_path / "data")).replace("\udce9", "\\xe9")
        assert name in done.stdout
    assert "did you mean n02085936-Maltese_dog?" in " ".join(done.stdout.split())
    assert "training would stop: 6 errors" in done.stdout
    assert "Traceback" not in done.stderr + done.stdout
    assert not list(cwd.iterdir())


@pytest.mark.slow
def test_json_output_is_one_object_with_all_problems(tmp_path):
    planted = planted_problems(tmp_path)
    done = check(tmp_path, *roots(tmp_path), "format=json")
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert found["schema"] == 1
    assert found["may_start"] is False
    assert {key.split("/")[0] for key in planted} == (
        found["files"].keys() | {group["kind"] for group in found["duplicates"]}
    )
    assert found["domains"]["source"]["splits"]["test"] == 10
    assert found["overlap"].startswith("pretraining overlap: Stanford Dogs")
    assert found["seconds"] < 60


@pytest.mark.slow
def test_valid_data_may_start_with_and_without_a_target(tmp_path):
    two_domains(tmp_path)
    done = check(tmp_path, *roots(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "training can start" in done.stdout
    assert "warning" not in done.stdout
    root = split_folders(tmp_path / "other")
    done = check(tmp_path, *SOURCE_ONLY, f"data.root={root}", "data.target=null")
    assert done.returncode == 0, done.stderr


def test_missing_target_is_an_error_only_for_an_explicit_adaptation_model(
    tmp_path, monkeypatch, capsys
):
    """The default model adapts to a target, but it was not requested explicitly."""
    root = split_folders(tmp_path)
    arguments = ["data=folder", f"data.root={root}", "data.batch_size=4"]
    with pytest.raises(SystemExit) as end:
        check_data._check_data(arguments)
    assert end.value.code == 0
    assert "training can start" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="model=dann adapts to a target"):
        check_data._check_data([*arguments, "model=dann"])


@pytest.mark.slow
def test_images_in_memory(tmp_path):
    done = check(tmp_path, "data=digits", "format=json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["domains"]["source"]["splits"] == {"train": 539, "val": 180, "test": 179}
    assert found["files"] == {}


CASES = {
    "typo in a format": (
        ["format=jsno"],
        "format=jsno is not a valid format; did you mean 'json'",
    ),
    "typo in a name": (["fromat=json"], "fromat is not a setting; did you mean 'format'"),
    "typo in a key": (["data.sise=1"], "data.sise is not a setting; did you mean 'size'?"),
    "no such data": (
        ["data=dgos"],
        "error: data=dgos is not a choice of conf/data/; did you mean 'dogs'?",
    ),
    "no value": (["data"], "error: data is not <key>=<value>; set data=<value>, or put quotes"),
    "no target": (["model=dann", "data.target=null"], "model=dann adapts to a target"),
    "unknown key of the source": (
        ["data=dogs", "+data.source.rot=1"],
        "data.source has no key 'rot'; did",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted(CASES))
def test_invalid_command_line(case, tmp_path):
    arguments, message = CASES[case]
    done = check(tmp_path, *arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


def test_missing_folder_is_reported_as_a_data_problem(tmp_path):
    done = check(tmp_path, "data=dogs", f"data.root={tmp_path / 'nowhere'}", "format=json")
    assert done.returncode == 1, done.stderr
    assert (
        f"not found with data.root={tmp_path / 'nowhere'}" in json.loads(done.stdout)["problems"][0]
    )


@pytest.mark.slow
def test_help(tmp_path):
    done = check(tmp_path, "--help")
    assert done.returncode == 0
    assert "Usage: check_data.py data=<name>" in done.stdout
    assert check(tmp_path).returncode == 2


@pytest.mark.slow
def test_interrupt_ends_the_check_immediately(tmp_path):
    """Even though a thread is still busy with an image for a minute."""
    two_domains(tmp_path)
    code = (
        "import signal, sys, time\n"
        # A process started in the background ignores Ctrl-C.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from tl_lightning.cli import check_data\n"
        "from tl_lightning.data.checks import survey\n"
        "def slow(path, white):\n"
        # One write: two threads print at the same time.
        "    sys.__stdout__.write('started\\n')\n"
        "    sys.__stdout__.flush()\n"
        "    time.sleep(60)\n"
        "survey.examine = slow\n"
        f"sys.argv = ['check_data.py', *{roots(tmp_path)!r}]\n"
        "check_data.check_data()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=50)
        finally:
            process.kill()
        assert process.returncode == 130, errors
        assert errors.strip() == "interrupted"
        assert time.monotonic() - started < 30


@pytest.mark.slow
def test_contact_sheet_is_written_to_the_working_directory(tmp_path):
    from PIL import Image

    split_folders(tmp_path / "dogs", train=8)
    done = check(
        tmp_path, *SOURCE_ONLY, f"data.root={tmp_path / 'dogs'}", "backbone=tiny_cnn",
        "data.augment=strong", "show=augmentations",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    sheet = tmp_path / "augmentations-dogs.png"
    assert str(sheet) in done.stdout
    with Image.open(sheet) as opened:
        assert opened.size[0] == 2000
        assert len(opened.convert("RGB").getcolors(1 << 24)) > 500
