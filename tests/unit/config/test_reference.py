"""Settings with their comments, in --help and docs/settings.md."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import settings as generator
from tl_lightning.cli import help as cli_help
from tl_lightning.cli.help import help_text
from tl_lightning.cli.train import train
from tl_lightning.config import reference
from tl_lightning.config.paths import choices
from tl_lightning.config.reference import HINTS, choice_of, group_names, train_settings
from tl_lightning.errors import ConfigError

#: Groups that set keys of other groups, which are described there.
COMBINED = ("experiment", "recipe", "recipe_for", "debug", "study", "tune")


@pytest.mark.slow
def test_the_generated_files_are_up_to_date(tmp_path: Path) -> None:
    hints, page = tmp_path / "hints.json", tmp_path / "settings.md"
    generator.main(hints, page)
    assert hints.read_text() == HINTS.read_text(), "run: make tables"
    assert page.read_text() == generator.PAGE.read_text(), "run: make tables"


def test_every_setting_has_a_description() -> None:
    settings = [("train", train_settings())]
    settings += [
        (f"{group}={name}", choice_of(group, name).settings)
        for group in group_names()
        if group not in COMBINED
        for name in choices(group)
    ]
    for file, entries in settings:
        described = {item.path for item in entries if item.comment}
        missing = [
            item.path
            for item in entries
            if item.default is not None
            and item.path not in described
            and item.path.rpartition(".")[0] not in described
            and item.path != "aux_tasks"  # of train.yaml
        ]
        assert not missing, (file, missing)


def test_comments_defaults_and_valid_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "_base.yaml").write_text(
        "# Of the base.\n_target_: torch.optim.Adam\n# Above,\n# in two lines.\nlr: 1.0e-3"
        "  # beside\n"
        "betas: [0.9,\n  0.99]\nname: 'a # b'\n"
    )
    (tmp_path / "optimizer" / "fast.yaml").write_text(
        "# Fast.\n#\n#   a command\ndefaults:\n  - _base\n  - _self_\nlr: 1.0\nempty:\n"
        "sub:  # a section\n  key: x\n"
    )
    monkeypatch.setattr(reference, "CONF", tmp_path)
    found = choice_of("optimizer", "fast")
    assert found.comment == "Fast.\n\n  a command"
    assert [tuple(item)[:3] for item in found.settings] == [
        ("optimizer.lr", "1.0", "Above, in two lines. beside"),
        ("optimizer.betas", "[0.9, 0.99]", ""),
        ("optimizer.name", "'a # b'", ""),
        ("optimizer.empty", "null", ""),
        ("optimizer.sub", None, "a section"),
        ("optimizer.sub.key", "x", ""),
    ]


def test_valid_values_are_those_of_the_class() -> None:
    values = {item.path: item.values for item in choice_of("method", "dann").settings}
    assert values["method.dann.ramp_steps"] == "an integer of at least 1 or null"
    fused = {item.path: item.values for item in choice_of("optimizer", "adam").settings}
    assert fused["optimizer.fused"] == "auto, true, false or null"
    assert {item.path: item.values for item in train_settings()}["test"] == "true or false"
    assert "torch.optim.Adam" in json.loads(HINTS.read_text())


def test_help_of_groups_and_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert max(map(len, help_text(["method=dann"]).splitlines()[5:])) <= 60
    assert "  method.dann.max_lambda=0.3\n      Maximum weight" in help_text(["method=[dann]"])
    text = help_text(["optimizer"])
    assert all(f"optimizer={name}\n" in text for name in choices("optimizer"))
    overview = help_text(["data.root=/data"])
    assert "  selection=auto\n" in overview
    assert "  cache.limit_gb=20\n" in overview
    assert cli_help.WIDTH == 100
    with pytest.raises(ConfigError, match="--help optimiser: there is no such group; did you"):
        help_text(["optimiser"])
    with pytest.raises(ConfigError, match=r"--help method=dan: no such choice; did you mean '"):
        help_text(["method=dan"])


def test_the_command_prints_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, code in ((["--help", "head"], 0), (["head", "-h"], 0), (["-h", "hat"], 2)):
        monkeypatch.setattr(sys, "argv", ["tl-train", *arguments])
        with pytest.raises(SystemExit) as end:
            train()
        printed = capsys.readouterr()
        assert end.value.code == code
        assert ("head=mlp" in printed.out) == (code == 0)
    assert "--help hat: there is no such group" in printed.err


def test_help_can_be_cut_by_a_pipe() -> None:
    script = f"{sys.executable} -m tl_lightning --help | head -1"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Train, select")
    assert done.stderr == ""
