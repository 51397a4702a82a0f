"""The command ``tl-rank-backbones``: which pretrained network suits a dataset."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from tl_lightning.cli.common import check_storable, flag, frozen_config, plain_command
from tl_lightning.cli.usage import SETTINGS, Usage
from tl_lightning.config.compose import with_values
from tl_lightning.config.paths import choices, folder_problem
from tl_lightning.errors import ConfigError, DataError, nearest

__all__ = ["rank_backbones"]

#: Options of this command with their defaults; all other arguments are overrides of the training
#: configuration.
_KEYS = {"backbones": "", "out": "", "samples": "3000", "test": "false"}
#: Settings that follow from what the command does.
_FIXED = ("backbone", "model", "cache.features", "data.augment")
_ITEM = re.compile(r"\+(?=[\w.]+=)")


USAGE = Usage(
    ("rank_backbones.py data=<name> [data.root=<folder>] backbones=[<name>,...]",),
    "Store the features of each frozen network for the source, and print a table: a linear probe "
    "with its validation accuracy, scores that need no training, size and speed.",
    {
        "Data and networks": {
            "data": "a dataset of conf/data/, with its settings",
            "backbones": "choices of conf/backbone/, with their settings after plus signs: "
            "[mobilenet_v2+pretrained=false,timm+name=vit_small_patch16_224]",
            "samples": "largest number of samples of each split, spread evenly, or all "
            "(default: 3000)",
            "test": "true: also show the test accuracy (default: false)",
        },
        "Output": {"out": "folder for backbones.csv, backbones.md and backbones.png"},
        "Other settings": SETTINGS,
    },
    ("rank_backbones.py data=pets data.root=<folder> backbones=[mobilenet_v2,resnet18]",),
)


def rank_backbones() -> None:
    """Compare networks before training: ``tl-rank-backbones data=<name> backbones=[...]``."""
    plain_command(_rank, USAGE)


def _rank(arguments: list[str]) -> None:
    pairs = [argument.partition("=") for argument in arguments]
    options = _KEYS | {key: value for key, _, value in pairs if key in _KEYS}
    overrides = [argument for argument in arguments if argument.partition("=")[0] not in _KEYS]
    items = _items(options["backbones"])
    samples, test = _samples(options["samples"]), flag("test", options["test"])
    for key in _FIXED:
        for override in overrides:
            if re.match(rf"{re.escape(key)}[.=]", override):
                raise ConfigError(
                    f"{override} is not supported by rank_backbones.py, which compares frozen "
                    f"backbones without augmentation; omit it, and set backbones=[...]"
                )
    out = Path(options["out"]).expanduser().absolute() if options["out"] else None
    if out is not None and (problem := folder_problem(out, "out")):
        raise ConfigError(problem)
    configs = {item: _config(item, overrides) for item in items}
    from tl_lightning.config.validation.check import check, check_keys
    from tl_lightning.config.validation.kinds import needs_classes

    for config in configs.values():
        check_keys(config)  # before torch is imported
    runs = {item: check(config) for item, config in configs.items()}
    first = next(iter(runs.values()))
    needs_classes(first, "rank_backbones.py")
    check_storable(first)
    from tl_lightning.reporting.backbones import render, write
    from tl_lightning.training.ranking import rank_backbone

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (item, run) in enumerate(runs.items(), 1):
            print(f"{item} ({number} of {len(runs)})", file=sys.stderr, flush=True)
            rows.append(rank_backbone(run, item, Path(folder), samples, test))
    title = f"Backbones on {first.data_name}"
    render(rows, title)
    if out is not None:
        for file in write(rows, title, out):
            print(f"written: {file}")
    if all(row.problem for row in rows):
        raise DataError("no backbone could be ranked; see the reasons above")


def _items(text: str) -> list[str]:
    """Return the backbones of ``[a,b+size=64]``.

    Raises:
        ConfigError: If there are none, if one is listed twice, or if a name does not exist.
    """
    names = [item.strip() for item in text.strip().removeprefix("[").removesuffix("]").split(",")]
    names = [name for name in names if name]
    known = choices("backbone")
    if not names:
        raise ConfigError(
            "backbones is missing; set backbones=[mobilenet_v2,resnet18] with names of "
            "conf/backbone/"
        )
    problems = []
    for name in names:
        choice, *settings = _ITEM.split(name)
        if choice not in known:
            problems.append(
                f"backbones contains {choice}, which is not a choice of conf/backbone/; "
                f"{nearest(choice, known)}"
            )
        problems += [
            f"backbones contains {name}, but {one} has no value; set {choice}+<key>=<value>"
            for one in settings
            if not one.partition("=")[2]
        ]
    problems += [f"backbones contains {name} twice" for name in dict.fromkeys(names)
                 if names.count(name) > 1]  # fmt: skip
    if problems:
        raise ConfigError(problems)
    return names


def _samples(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdigit() or int(text) < 2:
        raise ConfigError(
            f"samples={text} is not a number of at least 2, nor all; set samples=3000"
        )
    return int(text)


def _config(item: str, overrides: list[str]) -> dict[str, Any]:
    """Return the configuration of one backbone."""
    choice, *settings = _ITEM.split(item)
    chosen = [f"backbone={choice}", *(f"backbone.{setting}" for setting in settings)]
    plain = frozen_config([*overrides, *chosen, "head_init=random"], _KEYS)
    if any(re.match(r"\+*~?data\.target(\.|=|$)", override) for override in overrides):
        return plain
    # The labels of the source alone are used; a synthetic target would take half of them.
    return with_values(plain, {"data.target": None}) if "target" in plain["data"] else plain
