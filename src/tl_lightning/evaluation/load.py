"""Rebuild a trained model from its checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tl_lightning.checkpoints.io import read_checkpoint
from tl_lightning.config.allowlist import stored_faults
from tl_lightning.config.instantiate import ALLOWED
from tl_lightning.config.signatures import GIVEN, TAKEN, check_nodes
from tl_lightning.errors import ConfigError
from tl_lightning.models.base import TransferModule
from tl_lightning.training.build import (
    build_module,
)
from tl_lightning.types import Config

__all__ = ["load"]

#: What of a stored configuration a model needs nothing of.
_NOT_BUILT = ("data", "trainer", "callbacks", "logger")


def load(checkpoint: str | Path, allow: Sequence[str] = ()) -> TransferModule:
    """Rebuild a trained model from the configuration inside its checkpoint, in evaluation mode.

    Nothing in the file is executed (``weights_only=True``), and its configuration builds no class
    but those that ``conf/`` names.

    Args:
        checkpoint: A ``.ckpt`` file of ours.
        allow: Full names of further classes that it may build.

    Raises:
        CheckpointError: If the file is missing, broken or not one of ours.
        ConfigError: If its configuration names anything that may not be built.
    """
    stored = read_checkpoint(Path(checkpoint))
    saved = stored["hyper_parameters"]
    config: Config = {**saved["config"], "allow": list(allow)}  # whatever it would allow itself
    built = {key: value for key, value in config.items() if key not in _NOT_BUILT}
    # Nothing is imported before the names have been judged.
    faults = stored_faults(built, allow)
    faults = faults or check_nodes(built, GIVEN, [*ALLOWED, *allow], TAKEN)
    if faults:
        raise ConfigError([f"checkpoint {checkpoint}: {fault}" for fault in faults])
    module = build_module(
        config,
        tuple(saved["classes"]),
        pretrained=False,
        restored_by=stored.get("restored_by"),
        further=saved.get("tasks") or {},
    )
    module.load_state_dict(stored["state_dict"])
    module.inputs = stored.get("inputs") or {}
    return module.eval()
