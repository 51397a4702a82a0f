"""The command ``tl-advise``: what to try first on a source and an unlabelled target."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tl_lightning.cli.common import plain_command
from tl_lightning.cli.usage import SETTINGS, Usage
from tl_lightning.config.compose import as_dict, composed, default_node, with_values
from tl_lightning.data.target import target_setting
from tl_lightning.errors import ConfigError
from tl_lightning.utils.console import typed

if TYPE_CHECKING:  # import torch only after the arguments were checked
    from tl_lightning.reporting.advice import Advice

__all__ = ["advice_of", "advise"]

#: Options of this command with their defaults; all other arguments are overrides of the training
#: configuration.
_KEYS = {"samples": "3000", "format": "text"}
#: Network on whose features the domains are compared, if no other is set.
_BACKBONE = "backbone=mobilenet_v2"
#: Network that is trained from scratch, if the dataset has none by default.
_SMALL = "small_cnn"
_FIXED = ("model", "method", "head_init", "cache.features")


USAGE = Usage(
    ("advise.py data=<name> [data.root=<folder>] [data.target.<key>=<value> ...]",),
    "Compare a labelled source with an unlabelled target on the features of a pretrained network, "
    "and say what to try first and why, what accuracy to expect, how long it takes, and the "
    "command. Target labels are not read.",
    {
        "Data and network": {
            "data": "a dataset of conf/data/, such as folder, with its settings",
            "backbone": "network whose features are compared (default: mobilenet_v2)",
            "samples": "largest number of images of each split, spread evenly (default: 3000)",
        },
        "Output": {"format": "text or json (default: text)"},
        "Other settings": SETTINGS,
    },
    ("advise.py data=folder data.root=my/photos data.target.root=my/paintings",),
)


def advise() -> None:
    """Say what to try first: ``tl-advise data=<name> data.root=... data.target.root=...``."""
    plain_command(_advise, USAGE)


def _advise(arguments: list[str]) -> None:
    pairs = [argument.partition("=") for argument in arguments]
    options = _KEYS | {key: value for key, _, value in pairs if key in _KEYS}
    overrides = [argument for argument in arguments if argument.partition("=")[0] not in _KEYS]
    if options["format"] not in ("text", "json"):
        raise ConfigError(f"format={options['format']} is not a valid format; set format=text")
    if not options["samples"].isdigit() or int(options["samples"]) < 2:
        raise ConfigError(
            f"samples={options['samples']} is not a number of at least 2; set samples=3000"
        )
    with contextlib.redirect_stdout(sys.stderr):  # stdout is reserved for the advice
        advice, title, command = advice_of(overrides, int(options["samples"]))
    from tl_lightning.reporting.advice import advice_text, as_plain

    if options["format"] == "json":
        print(json.dumps(as_plain(advice, command)))
    else:
        print(advice_text(advice, title, command))


def advice_of(overrides: list[str], samples: int = 3000) -> tuple[Advice, str, str]:
    """Return the advice for the data of a configuration, their names, and the command.

    Args:
        overrides: Settings of ``train.py``.
        samples: Largest number of images of each split.

    Raises:
        TransferError: If the target is missing, the data cannot be used, or the weights of the
            backbone cannot be loaded.
    """
    for key in _FIXED:
        for override in overrides:
            if re.match(rf"{re.escape(key)}[.=]", override):
                raise ConfigError(
                    f"{override} is not supported by advise.py, which says what to set; omit {key}"
                )
    chosen = [] if any(item.startswith("backbone=") for item in overrides) else [_BACKBONE]
    plain = _config([*overrides, *chosen], "model=domain_adaptation", "method=[relative_bn]")
    from tl_lightning.config.validation.check import check
    from tl_lightning.config.validation.kinds import needs_classes
    from tl_lightning.config.validation.resolve import has_target

    _check_data(plain, has_target(plain))
    plain = with_values(plain, {"method.relative_bn.required": False})
    own = [item for item in overrides if not item.startswith("backbone")]
    scratch = _config(own, "model=source_only")
    if scratch["backbone"]["_target_"] != default_node("backbone", _SMALL)["_target_"]:
        own.append(f"backbone={_SMALL}")  # the default of the dataset is a pretrained network
        scratch = _config(own, "model=source_only")
    small = check(scratch)
    run = check(plain)
    needs_classes(run, "advise.py")
    from tl_lightning.reporting.formatting import domains_of
    from tl_lightning.training.advice import advise as measured

    with tempfile.TemporaryDirectory() as folder:
        advice = measured(run, small, Path(folder), samples)
    kept = own if advice.rule.name == "from scratch" else [*chosen, *overrides]
    words = ["python scripts/train.py", *map(shlex.quote, [*advice.rule.overrides, *kept])]
    names = domains_of(run.section("data"))
    return advice, f"{run.data_name}{': ' if names else ''}{names}", typed(" ".join(words))


def _config(overrides: list[str], *chosen: str) -> dict[str, Any]:
    plain = as_dict(composed([*overrides, *chosen], _KEYS))
    changes = {"logger": {}, "callbacks": {}, "baselines": [], "cache.images": "off"}
    return with_values(plain, changes)


def _check_data(plain: dict[str, Any], target: bool) -> None:
    """Raise what prevents the advice, before data are read."""
    from tl_lightning.config.instantiate import find_class
    from tl_lightning.data.datamodules.image import ImageDataModule

    cls, _ = find_class(str(plain["data"]["_target_"]), "data", ["tl_lightning", *plain["allow"]])
    name = plain["data"].get("name")
    if cls is None or not issubclass(cls, ImageDataModule) or not cls.storable:
        raise ConfigError(
            f"data={name} is not supported: the advice compares images on the features of a "
            "pretrained network, and was measured for them only; set data=folder, or another "
            "dataset of images"
        )
    if not target:
        raise ConfigError(
            f"data={name} has no target to compare the source with; set "
            f"data.target.{target_setting(cls)}, or compare backbones with rank_backbones.py"
        )
