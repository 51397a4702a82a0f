"""Loading of a trained model from its checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tl_lightning.checkpoints.io import read_checkpoint
from tl_lightning.config.allowlist import stored_problems
from tl_lightning.config.instantiate import ALLOWED
from tl_lightning.config.signatures import GIVEN, TAKEN, check_nodes
from tl_lightning.errors import ConfigError
from tl_lightning.models.base import TransferModule
from tl_lightning.training.build import build_module
from tl_lightning.types import Config

__all__ = ["load"]

#: Nodes of a stored configuration that a model does not need.
_NOT_BUILT = ("data", "trainer", "callbacks", "logger")


def load(checkpoint: str | Path, allow: Sequence[str] = ()) -> TransferModule:
    """Rebuild a trained model from the configuration inside its checkpoint, in evaluation mode.

    Nothing in the file is executed (``weights_only=True``), and its configuration may build only
    the classes named in ``conf/``.

    Args:
        checkpoint: A ``.ckpt`` file written by this framework.
        allow: Full names of additional classes that it may build.

    Raises:
        CheckpointError: If the file is missing, corrupt or not a checkpoint of this framework.
        ConfigError: If its configuration names a class that must not be built.
    """
    stored = read_checkpoint(Path(checkpoint))
    saved = stored["hyper_parameters"]
    config: Config = {**saved["config"], "allow": list(allow)}  # its own ``allow`` is ignored
    built = {key: value for key, value in config.items() if key not in _NOT_BUILT}
    # check_nodes imports the classes, so it must run only if all names are allowed.
    problems = stored_problems(built, allow)
    problems = problems or check_nodes(built, GIVEN, [*ALLOWED, *allow], TAKEN)
    if problems:
        raise ConfigError([f"checkpoint {checkpoint}: {problem}" for problem in problems])
    module = build_module(
        config,
        tuple(saved["classes"]),
        pretrained=False,
        restored_by=stored.get("restored_by"),
        aux_info=saved.get("aux_tasks") or {},
    )
    module.load_state_dict(stored["state_dict"])
    module.inputs = stored.get("inputs") or {}
    return module.eval()
