"""The command that looks at the data before training."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path

from omegaconf import DictConfig

from tl_lightning.cli.common import plain_command
from tl_lightning.config.compose import as_dict, composed
from tl_lightning.errors import ConfigError, nearest

__all__ = ["check_data"]


def check_data() -> None:
    """Look at the data before training: ``tl-check-data data=<name> data.root=...``."""
    try:
        plain_command(
            _check_data,
            "usage: check_data.py data=<name> [data.root=<folder>] [format=table|json]\n"
            "                     [show=findings|augmentations]\n"
            "                     [any other setting of train.py ...]\n"
            "Looks at every picture and reports counts, broken files, duplicates and leaks;\n"
            "show=augmentations draws instead what training is shown of some, as a PNG.\n"
            "Exit code 0: training can start; 1: it would stop; 2: a wrong command line.",
        )
    except SystemExit as end:
        if end.code == 130:
            os._exit(130)  # a thread in the middle of a large picture would hold up a plain exit
        raise


#: What is the check's own, with its choices, the default first; all else goes to the training
#: configuration.
_CHECK_KEYS: dict[str, tuple[str, ...]] = {
    "format": ("table", "json"),
    "show": ("findings", "augmentations"),
}


def _check_data(arguments: list[str]) -> None:
    chosen = {key: choices[0] for key, choices in _CHECK_KEYS.items()}
    overrides = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key not in _CHECK_KEYS:
            overrides.append(argument)
            continue
        if value not in _CHECK_KEYS[key]:
            hint = nearest(value, _CHECK_KEYS[key])
            raise ConfigError(f"{key}={value} is no {key} of a check; {hint}")
        chosen[key] = value
    config = composed(overrides, _CHECK_KEYS)
    from tl_lightning.config.validation.check import check
    from tl_lightning.config.validation.resolve import has_target
    from tl_lightning.training.build import build_data

    # The default model adapts to a target; who checks data without one has not asked for it.
    if not any(one.startswith("model=") for one in overrides) and not has_target(as_dict(config)):
        config = composed([*overrides, "model=source_only"], _CHECK_KEYS)
    from tl_lightning.data.checks.render import console, render
    from tl_lightning.data.checks.survey import survey

    if chosen["show"] == "augmentations":
        print(f"contact sheet: {_write_sheet(config)}")
        return
    # Whatever else has something to say (a download) says it on stderr: stdout is the report's.
    with contextlib.redirect_stdout(sys.stderr):
        data = build_data(check(config))
        found = survey(data)
    if chosen["format"] == "json":
        print(json.dumps(found))
    else:
        render(found, console())
    sys.exit(0 if found["may_start"] else 1)


def _write_sheet(config: DictConfig) -> Path:
    """Write what the model is shown of a few pictures into this folder; return the file."""
    from tl_lightning.config.validation.check import check
    from tl_lightning.data.checks.preview import augmentation_sheet
    from tl_lightning.training.build import build_data, build_module
    from tl_lightning.utils.files import write_bytes

    checked = check(config)
    data = build_data(checked)
    data.discover()
    module = build_module(checked, data.classes, pretrained=False)
    place = Path(f"augmentations-{data.name}.png").absolute()
    return write_bytes(place, augmentation_sheet(data, module.backbone.input_spec))
