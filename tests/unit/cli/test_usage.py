"""The help texts of the commands: every option is described, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Collection
from importlib import import_module

import pytest

from conftest import REPO
from tables import COMMANDS, with_commands
from tl_lightning.cli import (
    adapt,
    advise,
    check_data,
    demo,
    evaluate,
    export,
    extract_features,
    predict,
    publish,
    rank_backbones,
    report,
    serve,
    studies,
    tune,
    write_shards,
)  # fmt: skip
from tl_lightning.cli.common import plain_command
from tl_lightning.cli.usage import COLUMN, WIDTH, Usage
from tl_lightning.errors import CheckpointError, ConfigError, DataError, TrainingError
from tl_lightning.inference.serving.settings import SERVE_KEYS
from tl_lightning.utils import signals

#: Options that a command takes itself, besides settings of training.
TAKEN: dict[str, tuple[Usage, Collection[str]]] = {
    "advise": (advise.USAGE, advise._KEYS),
    "check_data": (check_data.USAGE, check_data._CHECK_KEYS),
    "demo": (demo.USAGE, ("checkpoint", "allow", *SERVE_KEYS)),
    "evaluate": (evaluate.USAGE, ({*evaluate._EVALUATE_KEYS} - {"metrics"}) | {"+metrics"}),
    "export": (export.USAGE, export._KEYS),
    "extract_features": (extract_features.USAGE, extract_features._KEYS),
    "predict": (predict.USAGE, predict.VALUES),
    "publish": (publish.USAGE, publish._KEYS),
    "rank_backbones": (rank_backbones.USAGE, rank_backbones._KEYS),
    "report": (report.USAGE, report._KEYS),
    "serve": (serve.USAGE, ("checkpoint", "allow", *SERVE_KEYS)),
    "write_shards": (write_shards.USAGE, write_shards._STREAM_KEYS),
}
#: Settings of training that the help text of a command names.
OF_TRAINING = {"data", "backbone", "<key>"}


@pytest.mark.parametrize("name", TAKEN)
def test_help_describes_every_option_and_no_other(name: str) -> None:
    usage, keys = TAKEN[name]
    assert usage.options - OF_TRAINING == set(keys) - OF_TRAINING
    assert all(text.strip() for part in usage.sections.values() for text in part.values())
    assert max(map(len, str(usage).splitlines())) <= WIDTH


def test_help_has_sections_and_aligned_options(capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["tl-foo", "--help"])
    usage = Usage(
        ("foo.py a=<a>",), "Do foo.", {"Input": {"a": "x" * 76 + " end"}}, ("foo.py a=1",)
    )
    with pytest.raises(SystemExit, match="0"):
        plain_command(lambda arguments: None, usage)
    assert capsys.readouterr().out.startswith(
        "Do foo.\n\nUsage: foo.py a=<a>\n\nInput:\n  a=                  " + "x" * 76
    )
    assert "\n" + " " * COLUMN + "end\n\nExamples:\n  foo.py a=1\n\nExit codes: 0" in str(usage)


def codes(usage: Usage) -> set[int]:
    return {int(found) for found in re.findall(r"(?:^|; )(\d+): ", usage.codes)}


def test_help_names_the_exit_codes_of_commands_that_train() -> None:
    known = {one.exit_code for one in (ConfigError, DataError, CheckpointError, TrainingError)}
    expected = {0, *known, 130, signals.EXIT_CODE}
    assert codes(adapt.USAGE) == codes(tune.USAGE) == expected
    assert codes(studies._ACTIVATION) == {1, *expected}  # 1: train() after a sweep
    assert "0: stopped by SIGTERM or the first Ctrl-C" in serve.USAGE.codes
    assert demo.USAGE.codes == serve.USAGE.codes
    assert codes(serve.USAGE) == {0, ConfigError.exit_code, 130}


def test_the_page_of_commands_is_up_to_date() -> None:
    text = (REPO / COMMANDS).read_text()
    assert with_commands(text) == text, "run: make tables"


def test_every_example_of_a_help_text_is_a_command() -> None:
    for name, (usage, _) in TAKEN.items():
        assert usage.examples
        assert all(one.startswith(f"{name}.py ") for one in (*usage.lines, *usage.examples))
        assert import_module(f"tl_lightning.cli.{name}").USAGE is usage
