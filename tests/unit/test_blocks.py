"""Every block of code in README and docs is executed, validated, or marked with a reason.

Commands are validated here, in this process: the settings of training are composed and checked as
the command does before it reads data, other options are compared with those of the command. Blocks
of Python, and some commands, are executed by the slow ``tests/integration/test_pages.py`` and
``test_documentation.py``.
``python tests/blocks.py`` prints the counts.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib import import_module

import pytest
import yaml

from blocks import (
    EXECUTED,
    INDENTED,
    OTHER,
    PAGES,
    Block,
    Command,
    all_blocks,
    blocks_of,
    commands_of,
    counts,
    fixed_values,
    treatment,
)  # fmt: skip
from conftest import REPO
from tl_lightning.cli import check_data, extract_features, rank_backbones, studies, write_shards
from tl_lightning.config.compose import composed
from tl_lightning.config.validation import trainer
from tl_lightning.config.validation.check import check
from tl_lightning.errors import ConfigError
from tl_lightning.sweeps.tuning.plan import read_plan

BLOCKS = all_blocks()
#: Pages whose commands a newcomer types first; those of the others are validated by the slow tests.
FIRST = ("README.md", "quickstart.md", "own_images.md")
#: Commands that take settings of training, with their own options.
TRAINING = {
    "advise": ("samples", "format"),
    "check_data": check_data._CHECK_KEYS,
    "extract_features": extract_features._KEYS,
    "rank_backbones": rank_backbones._KEYS,
    "write_shards": write_shards._STREAM_KEYS,
}
#: Commands that take a trained model.
MODEL = ("evaluate", "export", "predict", "publish", "report", "serve", "demo")


def validate(command: Command) -> None:
    """Check a command without running it; raise ConfigError or AssertionError."""
    name, arguments = command
    assert "..." not in arguments, "write the settings out"
    if name == "train":
        _train(arguments)
    elif name == "tune":
        read_plan(arguments)
    elif name in TRAINING:
        own = [one for one in arguments if one.partition("=")[0] not in TRAINING[name]]
        fixed = [one for one in own if not one.startswith("data.augment=")]
        check(composed([*fixed, "model=feature_extraction", "data.augment=none"], ()))
    elif name == "adapt":
        own = [one for one in arguments if not one.startswith("checkpoint=")]
        check(composed([*own, "model=source_free", "init=runs/a"], ()))
    elif name in MODEL:
        options = import_module(f"tl_lightning.cli.{name}").USAGE.options
        keys = {one.partition("=")[0] for one in arguments if "=" in one}
        # The others are settings of the run that evaluate changes.
        known = keys if name == "evaluate" else keys & options
        assert keys == known, f"{keys - known} are not options of {name}"
    elif name == "make":
        targets = re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(), re.M)
        assert set(arguments) <= {*targets}
    elif name == "pip":
        assert arguments[:1] == ("install",), f"pip {arguments[0]} is not pip install"
        extras = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
        asked = re.findall(r"\[(\w+)\]", " ".join(arguments))
        assert set(asked) <= set(extras["optional-dependencies"])
    elif name == "python":
        assert (REPO / arguments[0]).is_file()
    else:
        assert hasattr(studies, name), f"{name} is not a command; mark the block as not executed"


def _train(arguments: tuple[str, ...]) -> None:
    settings = [one for one in arguments if not one.startswith("-")]
    if "--help" in arguments or "--cfg" in arguments:
        return
    sweep = "-m" in arguments
    for chosen in fixed_values(settings, sweep):
        check(composed(chosen, ()))


def cases(kind: str) -> list[object]:
    """Return the blocks of a kind that are validated here, as cases of a test."""
    found = [block for block in BLOCKS if block.kind == kind and treatment(block) == "validated"]
    slow = [block.page not in FIRST for block in found]
    marks = [pytest.mark.slow if each else () for each in slow]
    return [pytest.param(b, id=b.name, marks=m) for b, m in zip(found, marks, strict=True)]


@pytest.fixture
def with_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the check of devices, and set the name of the run as a launcher does."""
    monkeypatch.setattr(trainer, "_device_problems", lambda run: iter(()))
    monkeypatch.setenv("TL_RUN_ID", "docs")


@pytest.mark.parametrize("block", cases("commands"))
def test_commands_can_be_started(block: Block, with_gpus: None) -> None:
    for command in commands_of(block.code):
        try:
            validate(command)
        except (ConfigError, AssertionError) as error:
            pytest.fail(f"{block.name}: {command}: {error}")


def test_every_block_has_a_treatment() -> None:
    for block in BLOCKS:
        if block.kind == "python":
            ast.parse(block.code)
        assert not block.reason or len(block.reason.split()) >= 3, f"{block.name}: say why"
        # Such as console or shell, whose commands no test would see.
        assert block.kind != "other" or block.language in OTHER, f"{block.name}: {block.language}"


@pytest.mark.parametrize("language", ["console", "shell", "zsh", "pycon"])
def test_another_language_of_a_shell_is_found(language: str, monkeypatch) -> None:
    text = f"```{language}\ntl-train modle=dann\n```\n"
    monkeypatch.setattr(sys.modules[__name__], "BLOCKS", list(blocks_of(text, "a.md")))
    with pytest.raises(AssertionError, match=f"a.md:1: {language}"):
        test_every_block_has_a_treatment()


def test_no_command_is_only_indented() -> None:
    for page in PAGES:
        if page.name != "commands.md":  # the help texts have examples
            text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
            assert INDENTED.findall(text) == [], page.name


def test_few_blocks_are_not_executed() -> None:
    """So that a mark is not the easy way out; every block of Python is executed but these."""
    skipped = [block for block in BLOCKS if treatment(block) == "not executed"]
    assert len(skipped) <= 12, [block.name for block in skipped]
    assert counts(BLOCKS)["python"]["executed"] >= 38
    assert set(EXECUTED) >= {block.page for block in BLOCKS if block.kind == "python"}


def test_configuration_can_be_read() -> None:
    for block in BLOCKS:
        if treatment(block) == "configuration":
            assert yaml.safe_load(block.code)


@pytest.mark.parametrize(("line", "message"), [
    ("tl-train model=dan", "model=dan is not a choice"),
    ("tl-train -m seed=0,1 optimizer.lrate=1", "optimizer.lrate is not a setting"),
    ("tl-predict checkpoint=a inptu=b", "are not options of predict"),
    ("tl-check-data data=dogs qualty=true", "qualty is not a setting"),
    ("make tset", "tset"),
    ("tl-predict checkpoint=a input=b top.x=1", "'top.x'} are not options of predict"),
    ("tl-predict checkpoint=a input=b adapt.lrate=1", "'adapt.lrate'} are not options of predict"),
    ("pip install 'tl_lightning[texts]'", "texts"),
    ("pip uninstall tl_lightning", "pip uninstall is not pip install"),
    ("kubectl apply", "mark the block as not executed"),
    ("tl-train ... seed=0", "write the settings out"),
])  # fmt: skip
def test_a_wrong_command_is_found(line: str, message: str) -> None:
    (command,) = commands_of(line)
    with pytest.raises((ConfigError, AssertionError), match=message):
        validate(command)
