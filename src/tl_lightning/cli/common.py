"""What the commands share."""

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
from tl_lightning.utils.console import complain
from tl_lightning.utils.files import alone_in
from tl_lightning.utils.signals import end_interrupted

__all__ = ["allowed", "part_of", "plain_command", "remove_untouched", "say_interrupted"]


def say_interrupted(folder: Path, sweeping: bool = False) -> None:
    """Say on the first rank how to go on, if anything was kept; leave no empty folder."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        kept = any((folder / "checkpoints").glob("*.ckpt"))
        way_on = f"; go on with resume=auto hydra.run.dir={folder}" if kept else ""
        if sweeping:
            way_on = f"; go on by the same command with hydra.sweep.dir={folder.parent}"
        print(f"interrupted{way_on}", file=sys.stderr, flush=True)
        remove_untouched(folder)


def remove_untouched(folder: Path) -> None:
    """Remove a run folder that holds nothing but what Hydra put there before the job began."""
    with alone_in(folder, wait_s=1) if folder.is_dir() else contextlib.nullcontext(False) as mine:
        if not mine or any(
            item.name != ".hydra" and item.suffix != ".log" for item in folder.iterdir()
        ):
            return
        shutil.rmtree(folder, ignore_errors=True)
        if folder.parent.parent.name == "outputs":
            with contextlib.suppress(OSError):  # other runs of this name are there
                folder.parent.rmdir()


def plain_command(work: Callable[[list[str]], None], usage: str) -> None:
    """Run a command that is not a Hydra job: help, one clear error, an honest exit code."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(usage)
        sys.exit(0 if arguments else 2)
    try:
        work(arguments)
    except (KeyboardInterrupt, SystemExit) as end:
        end_interrupted(end)
    except TransferError as error:
        complain(error)
        sys.exit(error.exit_code)


def allowed(overrides: Iterable[str]) -> list[str]:
    """Return what ``allow=[...]`` names among the overrides."""
    own = [override for override in overrides if override.startswith("allow=")]
    found: Any = OmegaConf.from_dotlist(own).get("allow") or []
    return [found] if isinstance(found, str) else [str(name) for name in found]


def part_of(
    name: str, checkpoint: str, overrides: list[str], whole: bool = False
) -> dict[str, Any] | None:
    """Return the node ``name`` as asked for; if it is not, None or, ``whole``, the checkpoint's."""
    own = [o for o in overrides if o.split("=")[0].split(".")[0] == name]
    if not own and not whole:
        return None
    node: Any
    if any(o.startswith(f"{name}=") for o in own):
        node = OmegaConf.to_container(compose(own)[name], resolve=True)
    else:
        from tl_lightning.checkpoints.io import read_checkpoint
        from tl_lightning.config.allowlist import stored_faults

        stored: Any = read_checkpoint(Path(checkpoint))["hyper_parameters"]
        if faults := stored_faults({name: stored["config"][name]}, allowed(overrides)):
            raise ConfigError([f"checkpoint {checkpoint}: {fault}" for fault in faults])
        base: Any = OmegaConf.create(stored["config"][name])
        changes: Any = OmegaConf.from_dotlist(own).get(name) or {}
        for key in changes:
            if key not in base:
                raise ConfigError(f"{name}.{key} is no setting; {nearest(key, base)}")
        node = OmegaConf.to_container(OmegaConf.merge(base, changes))
    return dict(node)
