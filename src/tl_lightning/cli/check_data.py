"""The command ``tl-check-data``: validation of a dataset before training."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from tl_lightning.cli.common import frozen_features, plain_command
from tl_lightning.cli.usage import SETTINGS, Usage
from tl_lightning.config.compose import as_dict, composed
from tl_lightning.errors import ConfigError, nearest
from tl_lightning.utils.console import typed

__all__ = ["check_data"]


USAGE = Usage(
    ("check_data.py data=<name> [data.root=<folder>] [<option>=<value> ...]",),
    "Read every image, and report counts, unreadable files, duplicates and leaks.",
    {
        "Data": {"data": "a dataset of conf/data/, such as folder, with its settings"},
        "What to check": {
            "quality": "true: also search for label errors, outliers and ambiguous images with the "
            "features of a pretrained network (backbone=mobilenet_v2); written to "
            "quality-<name>.csv and .html (default: false)",
            "advice": "true: add what to try first, as advise.py does; takes minutes "
            "(default: false)",
        },
        "Output": {
            "format": "table or json (default: table)",
            "show": "findings, or augmentations: a contact sheet of augmented images (PNG) "
            "(default: findings)",
        },
        "Other settings": SETTINGS,
    },
    ("check_data.py data=folder data.root=my/photos data.target.root=my/paintings",),
    "0: training can start; 1: training would fail; 2: invalid command line",
)


def check_data() -> None:
    """Check a dataset before training: ``tl-check-data data=<name> data.root=...``."""
    try:
        plain_command(_check_data, USAGE)
    except SystemExit as end:
        if end.code == 130:
            os._exit(130)  # sys.exit would wait for threads that are decoding images
        raise


#: Options of this command with their choices, the default first. All other arguments are overrides
#: of the training configuration.
_CHECK_KEYS: dict[str, tuple[str, ...]] = {
    "format": ("table", "json"),
    "show": ("findings", "augmentations"),
    "quality": ("false", "true"),
    "advice": ("false", "true"),
}


def _check_data(arguments: list[str]) -> None:
    options = {key: choices[0] for key, choices in _CHECK_KEYS.items()}
    overrides = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key not in _CHECK_KEYS:
            overrides.append(argument)
            continue
        if value not in _CHECK_KEYS[key]:
            hint = nearest(value, _CHECK_KEYS[key])
            raise ConfigError(f"{key}={value} is not a valid {key}; {hint}")
        options[key] = value
    if options["quality"] == "true" and find_spec("cleanlab") is None:
        raise ConfigError(
            "quality=true needs the package cleanlab; run pip install 'tl_lightning[clean]', or "
            "omit quality"
        )
    config = composed(overrides, _CHECK_KEYS)
    from tl_lightning.config.validation.check import check
    from tl_lightning.config.validation.kinds import needs_classes
    from tl_lightning.config.validation.resolve import has_target

    target, advised = has_target(as_dict(config)), options["advice"] == "true"
    if advised and not target:
        raise ConfigError(
            "advice=true compares a source with a target, but the data have no target; set "
            "data.target, or advice=false"
        )
    # The default model needs a target; without one, check the data for a source-only model.
    if not any(item.startswith("model=") for item in overrides) and not target:
        config = composed([*overrides, "model=source_only"], _CHECK_KEYS)
    from tl_lightning.data.checks.render import console, render
    from tl_lightning.data.checks.survey import survey
    from tl_lightning.tasks.encoding import data_of

    if options["show"] == "augmentations":
        print(f"contact sheet: {_write_sheet(config)}")
        return
    # Print messages such as download progress to stderr: stdout is reserved for the report.
    with contextlib.redirect_stdout(sys.stderr):
        checked = check(config)
        if options["quality"] == "true":
            needs_classes(checked, "quality=true")
        data = data_of(checked)
        report = survey(data)
        if options["quality"] == "true" and report["may_start"]:
            report["quality"] = _quality(overrides)
    may_advise = advised and report["may_start"] and not data.of_cells
    if options["format"] == "json":
        print(json.dumps(report | (_advice(overrides, True) if may_advise else {})))
    else:
        render(report, console())
        if may_advise:
            print(f"\n{_advice(overrides, False)['advice']}")
        elif target and report["may_start"] and data.gives == "images" and data.storable:
            print(typed("advise.py with the same settings, or advice=true, says what to try first"))
    sys.exit(0 if report["may_start"] else 1)


def _quality(overrides: list[str]) -> dict[str, Any]:
    """Search for label errors and outliers; write them to the current folder and return them."""
    run = frozen_features([o for o in overrides if not o.startswith("model=")], list(_CHECK_KEYS))
    from tl_lightning.evaluation.data_quality import data_quality, listed_images
    from tl_lightning.reporting.data_quality import write_lists, write_quality_page

    with tempfile.TemporaryDirectory() as folder:
        quality, parts = data_quality(run, Path(folder))
    found = quality.plain()
    lists = write_lists(Path(f"quality-{run.data_name}.csv").absolute(), found["findings"])
    shown = listed_images(quality, parts)
    page = write_quality_page(lists.with_suffix(".html"), str(run.data_name), found, shown)
    return {**found, "files": {"lists": str(lists), "page": str(page)}}


def _advice(overrides: list[str], plain: bool) -> dict[str, Any]:
    """Return the advice on the data as the value of ``advice``: plain values, or text."""
    from tl_lightning.cli.advise import advice_of
    from tl_lightning.reporting.advice import advice_text, as_plain

    settings = [item for item in overrides if not item.startswith("model=")]
    with contextlib.redirect_stdout(sys.stderr):
        advice, title, command = advice_of(settings)
    return {"advice": as_plain(advice, command) if plain else advice_text(advice, title, command)}


def _write_sheet(config: DictConfig) -> Path:
    """Write a contact sheet of augmented images to the current folder; return its path."""
    from tl_lightning.config.validation.check import check
    from tl_lightning.data.checks.preview import augmentation_sheet
    from tl_lightning.tasks.encoding import data_of
    from tl_lightning.training.build import build_module
    from tl_lightning.utils.files import write_bytes

    checked = check(config)
    data = data_of(checked)
    data.discover()
    module = build_module(checked, data.classes, pretrained=False, input_state=data.input_state)
    path = Path(f"augmentations-{data.name}.png").absolute()
    return write_bytes(path, augmentation_sheet(data, module.backbone.input_spec))
