"""Every setting at its bounds and with wrong types: valid, or one error that names the setting."""

from __future__ import annotations

import random
import warnings
from typing import Any

import pytest

from config_values import PATHS, cases, outcome
from helpers import config
from tl_lightning.config.compose import with_values
from tl_lightning.config.validation.check import check
from tl_lightning.errors import ConfigError


def wrong(found: list[Any]) -> dict[tuple[str, str], str]:
    """Return what is neither valid nor an error with the key, by key and value."""
    bad = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of huge numbers, by numpy
        for base, path, value, node in found:
            result = outcome(node, path)
            if result not in ("valid", "error"):
                bad[f"{base} {path}", repr(value)] = result
    return bad


@pytest.mark.slow
def test_some_values_of_the_default_configuration() -> None:
    plain = config("model=source_only")
    picked = random.Random(0).sample(list(cases([("default", plain)])), 400)
    assert wrong(picked) == {}


@pytest.mark.slow
def test_some_values_of_all_choices() -> None:
    picked = random.Random(0).sample(list(cases()), 1000)
    assert wrong(picked) == {}


@pytest.mark.long
@pytest.mark.timeout(0)
def test_all_values_of_all_choices() -> None:
    """24,000 configurations in some minutes."""
    assert wrong(list(cases())) == {}


@pytest.mark.parametrize("name", ["", " ", "a/b", "..", "a\\b", "\x1b[31m", "a\nb", "m[/b]"])
@pytest.mark.parametrize("key", ["data", "model"])
def test_names_that_no_folder_can_have(key, name) -> None:
    with pytest.raises(ConfigError, match=rf"(?s){key}\.name=.* is not a valid name, as folders"):
        check(with_values(config("model=source_only"), {f"{key}.name": name}))


def test_other_names_are_fine() -> None:
    for name in ("it's", "m[b]", "käfer", "dann+mcc", "a b", "a=b"):
        check(with_values(config("model=source_only"), {"data.name": name}))
    assert len(PATHS) > 20


@pytest.mark.parametrize("group", ["data", "model", "backbone", "head", "loss", "optimizer"])
def test_group_without_a_class(group) -> None:
    with pytest.raises(ConfigError, match=rf"{group}={{}} has no _target_; set {group}="):
        check(with_values(config("model=source_only"), {group: {}}))
