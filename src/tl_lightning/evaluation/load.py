"""Loading of a trained model from its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tl_lightning.checkpoints.io import StoredModel, read_model
from tl_lightning.checkpoints.published import NEEDED
from tl_lightning.config.allowlist import stored_problems
from tl_lightning.config.instantiate import ALLOWED, nodes_of
from tl_lightning.config.schema import RunConfig, known_keys
from tl_lightning.errors import CheckpointError, ConfigError
from tl_lightning.models.base import TransferModule
from tl_lightning.training.build import build_module

__all__ = ["completed", "load", "needed", "rebuilt"]

#: Nodes of a stored configuration that a model does not need.
_NOT_BUILT = ("data", "trainer", "callbacks", "logger")
#: Settings of training that earlier versions did not have, and a trained model does not depend on.
_ADDED = {
    "interpolation": None, "label_shift": "none", "rejection": "none",
    "rejection_threshold": "otsu", "task": {"kind": "classification"},
}  # fmt: skip


#: Settings of methods that earlier versions did not have, and what they did.
_ADDED_TO = {name: {"per_source": False, "num_sources": None} for name in ("adabn", "dsbn")}


def load(
    checkpoint: str | Path, allow: Sequence[str] = (), own: Mapping[str, Any] | None = None
) -> TransferModule:
    """Rebuild a trained model from the configuration inside its checkpoint, in evaluation mode.

    Nothing in the file is executed (``weights_only=True``), and its configuration may build only
    the classes named in ``conf/``.

    Args:
        checkpoint: A ``.ckpt`` file written by this framework.
        allow: Full names of additional classes that it may build.
        own: Parts in place of the configured ones, as the model was created with, see
            :func:`.build_module`.

    Raises:
        CheckpointError: If the file is missing, corrupt or not a checkpoint of this framework, or
            was written by another version of it, or its weights are those of other parts.
        ConfigError: If its configuration names a class that must not be built.
    """
    return rebuilt(read_model(Path(checkpoint)), checkpoint, allow, own)


def rebuilt(
    stored: StoredModel,
    checkpoint: str | Path,
    allow: Sequence[str] = (),
    own: Mapping[str, Any] | None = None,
) -> TransferModule:
    """Rebuild a model that has been read from a checkpoint, see :func:`load`."""
    # Its own ``allow`` is ignored.
    config = {**_ADDED, **completed(stored.config), "allow": list(allow)}
    if missing := [name for name in known_keys() if name not in config]:
        raise CheckpointError(
            f"checkpoint={checkpoint} has no setting of {', '.join(missing)}, since it was written "
            "by another version of tl_lightning; load it with that version"
        )
    own = own or {}
    skipped = (*_NOT_BUILT, *({"backbone", "loss"} & own.keys()))
    built = {key: value for key, value in config.items() if key not in skipped}
    problems = stored_problems(built, allow)
    if not problems:  # only now: the next line imports the classes
        nodes, problems = nodes_of(built, [*ALLOWED, *allow])
    if problems:
        raise ConfigError([f"checkpoint {checkpoint}: {problem}" for problem in problems])
    module = build_module(
        RunConfig.of(config, nodes),
        stored.classes,
        pretrained=False,
        restored_by=stored.restored_by,
        aux_info=stored.aux_tasks,
        own=own,
        input_state=stored.input_state,
    )
    try:
        found = module.load_state_dict(stored.state_dict, strict=not stored.partial)
        if found.unexpected_keys or any(k.startswith(needed(module)) for k in found.missing_keys):
            raise RuntimeError(str(found))
    except RuntimeError as error:  # missing, unexpected or differently shaped weights
        raise CheckpointError(
            f"the weights in checkpoint={checkpoint} do not fit its configuration; pass the parts "
            "of your own that the model was created with, as in load(checkpoint, backbone=...)"
        ) from error
    return module.eval()


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored configuration with the settings of methods that were added later.

    >>> completed({"seed": 0, "method": {"adabn": {}}})["method"]
    {'adabn': {'per_source': False, 'num_sources': None}}
    """
    methods = (config.get("method") or {}).items()
    added = {
        name: {**_ADDED_TO.get(name, {}), **node} for name, node in methods if node is not None
    }
    return {**config, "method": added} if added else dict(config)


def needed(module: TransferModule) -> tuple[str, ...]:
    """Return the prefixes of the weights that predictions and tests of a model need."""
    methods = getattr(module, "methods", None) or {}
    recognise = [name for name, one in methods.items() if any(
        one is other for other in module.task.recogniser)]  # fmt: skip
    return (*NEEDED, *(f"methods.{name}." for name in recognise))
