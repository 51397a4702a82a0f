"""Utilities shared by the commands."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from tl_lightning.config.compose import compose
from tl_lightning.errors import ConfigError, TransferError, nearest
from tl_lightning.utils.console import on_problem
from tl_lightning.utils.files import alone_in
from tl_lightning.utils.signals import end_interrupted

__all__ = ["allowed", "part_of", "plain_command", "remove_untouched", "say_interrupted"]


def say_interrupted(folder: Path, sweeping: bool = False) -> None:
    """Print on local rank 0 how to resume, and remove the run folder if it is empty."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        saved = any((folder / "checkpoints").glob("*.ckpt"))
        hint = f"; resume with resume=auto hydra.run.dir={folder}" if saved else ""
        if sweeping:
            hint = f"; resume with the same command and hydra.sweep.dir={folder.parent}"
        print(f"interrupted{hint}", file=sys.stderr, flush=True)
        remove_untouched(folder)


def remove_untouched(folder: Path) -> None:
    """Remove a run folder that contains only the files that Hydra writes before a job."""
    if not folder.is_dir():
        return
    with alone_in(folder, wait_s=1) as acquired:
        if not acquired or any(
            item.name != ".hydra" and item.suffix != ".log" for item in folder.iterdir()
        ):
            return
        shutil.rmtree(folder, ignore_errors=True)
        if folder.parent.parent.name == "outputs":
            with contextlib.suppress(OSError):  # it contains other runs
                folder.parent.rmdir()


def plain_command(work: Callable[[list[str]], None], usage: str) -> None:
    """Run a command that is not a Hydra job, with help text, error message and exit code."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(usage)
        sys.exit(0 if arguments else 2)
    try:
        work(arguments)
    except (KeyboardInterrupt, SystemExit) as end:
        end_interrupted(end)
    except TransferError as error:
        on_problem(error)
        sys.exit(error.exit_code)


def allowed(overrides: Iterable[str]) -> list[str]:
    """Return the names in ``allow=[...]`` among the overrides."""
    own = [override for override in overrides if override.startswith("allow=")]
    names: Any = OmegaConf.from_dotlist(own).get("allow") or []
    return [names] if isinstance(names, str) else [str(name) for name in names]


def part_of(
    name: str, checkpoint: str, overrides: list[str], whole: bool = False
) -> dict[str, Any] | None:
    """Return a config node of the checkpoint with overrides applied.

    Args:
        name: Name of the node.
        checkpoint: Path of the checkpoint.
        overrides: Command-line overrides; ``name=<choice>`` replaces the node of the checkpoint.
        whole: Without overrides for it, return the checkpoint's node instead of None.
    """
    own = [o for o in overrides if o.split("=")[0].split(".")[0] == name]
    if not own and not whole:
        return None
    node: Any
    if any(o.startswith(f"{name}=") for o in own):
        node = OmegaConf.to_container(compose(own)[name], resolve=True)
    else:
        from tl_lightning.checkpoints.io import read_checkpoint
        from tl_lightning.config.allowlist import stored_problems

        stored: Any = read_checkpoint(Path(checkpoint))["hyper_parameters"]
        if problems := stored_problems({name: stored["config"][name]}, allowed(overrides)):
            raise ConfigError([f"checkpoint {checkpoint}: {problem}" for problem in problems])
        base: Any = OmegaConf.create(stored["config"][name])
        changes: Any = OmegaConf.from_dotlist(own).get(name) or {}
        for key in changes:
            if key not in base:
                raise ConfigError(f"{name}.{key} is not a setting; {nearest(key, base)}")
        node = OmegaConf.to_container(OmegaConf.merge(base, changes))
    return dict(node)
