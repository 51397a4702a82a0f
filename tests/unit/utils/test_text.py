"""Texts that are printed, stored in tables and passed on as overrides."""

from __future__ import annotations

import csv
import io

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from tl_lightning.config.overrides import quoted
from tl_lightning.utils.text import csv_cell, masked, printable

ODD = ["it's", "a b", "ä", 'a"b', "a\\'b", "a\\", "a'\\", "a=b", "a,b", "(a)", "[a]", "-a", "~"]


@pytest.mark.parametrize("text", ODD)
def test_a_quoted_value_is_read_as_written(text: str) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"hydra.sweep.dir={quoted(text)}"])
    value = override.value()
    assert getattr(value, "text", value) == text


@pytest.mark.parametrize("text", ["\x1b[31mred", "a\x07", "a\rb", "a\x9b1m", "a\u202eb", "a\x7f"])
def test_control_characters_are_escaped(text: str) -> None:
    assert printable(text).isprintable()
    assert printable("käfer 猫 a\nb\tc") == "käfer 猫 a\nb\tc"


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\t=1", "\r=1"])
def test_no_spreadsheet_evaluates_a_cell(text: str) -> None:
    assert csv_cell(text) == f"'{text}"
    buffer = io.StringIO()
    csv.writer(buffer).writerow([csv_cell(text)])
    assert next(csv.reader(io.StringIO(buffer.getvalue(), newline="")))[0][0] == "'"


@pytest.mark.parametrize("text", ["-1", "+1.5e-3", "a=b", "", "cat", "1"])
def test_other_cells_are_unchanged(text: str) -> None:
    assert csv_cell(text) == text


def test_passwords_and_keys_are_masked_and_nothing_else() -> None:
    config = {
        "logger": {"m": {"tracking_uri": "postgresql://me:pw@h:5432/x?a=b", "api_key": "pw"},
                   "w": {"auth_token": "pw", "password": None, "list": ["s3://k:pw@b/x"]}},
        "backbone": {"tokenizer": "t", "max_tokens": 8, "network": {"token_dropout": 0.1}},
        "data": {"root": "/a:b@c", "url": "s3://bucket/x@1"},
    }  # fmt: skip
    found = masked(config)
    assert "pw" not in str(found)
    assert found["backbone"] == config["backbone"]
    assert found["data"] == config["data"]
    assert found["logger"]["m"]["tracking_uri"] == "postgresql://me:***@h:5432/x?a=b"
    assert found["logger"]["w"]["password"] is None
    text = "- m.uri=sql://me:pw@h\n- +logger.w.api_key=pw\ntoken: pw\npassword: null\n"
    assert masked(text).count("***") == 3
    assert "pw" not in masked(text)
    assert "password: null" in masked(text)
