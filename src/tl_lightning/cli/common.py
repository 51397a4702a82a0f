"""Utilities shared by the commands."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tl_lightning import __version__
from tl_lightning.cli.usage import Usage
from tl_lightning.errors import ConfigError, TransferError, nearest
from tl_lightning.utils.console import on_problem, typed
from tl_lightning.utils.files import run_lock, write_text
from tl_lightning.utils.signals import end_interrupted
from tl_lightning.utils.text import masked

if TYPE_CHECKING:
    from tl_lightning.config.schema import RunConfig

_HYDRA_FILES = ("config", "hydra", "overrides")

__all__ = [
    "check_storable",
    "flag",
    "frozen_config",
    "frozen_features",
    "hide_secrets",
    "options_of",
    "plain_command",
    "remove_untouched",
    "say_interrupted",
]


def say_interrupted(folder: Path, sweeping: bool = False) -> None:
    """Print on local rank 0 how to resume, and remove the run folder if it is empty."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        saved = any((folder / "checkpoints").glob("*.ckpt"))
        hint = f"; resume with resume=auto hydra.run.dir={folder}" if saved else ""
        if sweeping:
            hint = f"; resume with the same command and hydra.sweep.dir={folder.parent}"
        print(f"interrupted{hint}", file=sys.stderr, flush=True)
        remove_untouched(folder)


def hide_secrets(folder: Path) -> None:
    """Mask passwords and keys in the files that Hydra writes before a job."""
    for file in [*(folder / ".hydra").glob("*.yaml"), folder.parent / "multirun.yaml"]:
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        if (hidden := masked(text)) != text:
            write_text(file, hidden)


def remove_untouched(folder: Path) -> None:
    """Remove a run folder that contains only the files that Hydra writes before a job."""
    if not folder.is_dir():
        return
    with run_lock(folder, wait_s=1) as acquired:
        found = {item for item in folder.rglob("*") if item != folder / ".hydra"}
        logs = {item for item in found if item.suffix == ".log" and not item.stat().st_size}
        written = {folder / ".hydra" / f"{name}.yaml" for name in _HYDRA_FILES}
        written |= logs | {folder / ".lock"}
        if not acquired or found - written:
            return
        with contextlib.suppress(OSError):  # another process of the run removes it as well
            for item in found:
                item.unlink(missing_ok=True)
            if (folder / ".hydra").is_dir():
                (folder / ".hydra").rmdir()
            folder.rmdir()
        if folder.parent.parent.name == "outputs":
            with contextlib.suppress(OSError):  # it contains other runs
                folder.parent.rmdir()


def options_of(
    arguments: Sequence[str], keys: Collection[str], repeated: Collection[str] = ()
) -> dict[str, str]:
    """Return the values of the options of a command by name.

    Args:
        arguments: As ``key=value``.
        keys: Names of the options.
        repeated: Options that may be given more than once, of which the last one is returned.

    Raises:
        ConfigError: For another option, or one that is given more than once.
    """
    names = [argument.partition("=")[0] for argument in arguments]
    for name in dict.fromkeys(names):
        if name not in keys:
            raise ConfigError(f"{name} is not an option; {nearest(name, keys)}")
        if name not in repeated and names.count(name) > 1:
            raise ConfigError(f"{name} is given more than once; set {name} only once")
    return dict(argument.partition("=")[::2] for argument in arguments)


def flag(key: str, text: str) -> bool:
    """Return the value of an option that is true or false.

    Raises:
        ConfigError: If it is neither.
    """
    if text.lower() not in ("true", "false"):
        raise ConfigError(f"{key}={text} is not true or false; set {key}=true")
    return text.lower() == "true"


def frozen_config(overrides: Sequence[str], keys: Iterable[str]) -> dict[str, Any]:
    """Return the plain configuration that stores the features of a frozen backbone.

    Args:
        overrides: Settings of the training configuration, without a model.
        keys: Other options of the command, to suggest in messages.
    """
    from tl_lightning.config.compose import as_dict, composed, with_values

    config = composed([*overrides, "model=feature_extraction", "cache.features=full"], keys)
    changes: dict[str, Any] = {"logger": {}, "callbacks": {}}
    if "augment" in config.data:  # texts and vectors have no augmentation
        changes["data.augment"] = "none"
    return with_values(as_dict(config), changes)


def check_storable(run: RunConfig) -> None:
    """Raise ConfigError if the features of the data cannot be stored."""
    if not run.data.cls.storable:
        raise ConfigError(
            f"data={run.data_name} is not supported: vectors are features already, and streams "
            "have no sample index to store features by; for a stream, use the dataset it was "
            "written from"
        )


def frozen_features(overrides: Sequence[str], keys: Iterable[str]) -> RunConfig:
    """Return the configuration that stores the features of a frozen backbone, without training.

    Args:
        overrides: Settings of the training configuration, without a model.
        keys: Other options of the command, to suggest in messages.

    Raises:
        ConfigError: If the features of the data cannot be stored.
    """
    from tl_lightning.config.validation.check import check

    run = check(frozen_config(overrides, keys))
    check_storable(run)
    return run


def plain_command(work: Callable[[list[str]], None], usage: Usage) -> None:
    """Run a command that is not a Hydra job, with help text, error message and exit code."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        print(f"tl_lightning {__version__}")
        sys.exit(0)
    if not arguments or {"-h", "--help"} & set(arguments):
        print(typed(str(usage)))
        sys.exit(0 if arguments else 2)
    from tl_lightning.config.overrides import joined

    try:
        work(joined(arguments))
    except (KeyboardInterrupt, SystemExit) as end:
        end_interrupted(end)
    except TransferError as error:
        on_problem(error)
        sys.exit(error.exit_code)
