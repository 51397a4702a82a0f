"""Published models: a folder of plain files from which a model is rebuilt without executing code.

``config.json`` has all that is not a tensor, ``model.safetensors`` the weights,
``validation.safetensors`` the outputs on source validation if they were published, and
``tokenizer.json`` the tokenizer of a text encoder. No file is a pickle.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tl_lightning import __version__
from tl_lightning.backbones.tokenizer import packed, read_tokens
from tl_lightning.checkpoints.stored import StoredModel
from tl_lightning.errors import CheckpointError, DataError
from tl_lightning.utils.files import read_json, write_json, write_text

__all__ = [
    "CARD",
    "CONFIG",
    "FILES",
    "NEEDED",
    "OUTPUTS",
    "WEIGHTS",
    "is_published",
    "read_published",
    "write_published",
]

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
OUTPUTS, TOKENIZER = "validation.safetensors", "tokenizer.json"
#: All files of a published model; others in its folder are not read.
FILES = (CONFIG, WEIGHTS, CARD, OUTPUTS, TOKENIZER)
FORMAT, VERSION = "tl_lightning model", 1
#: Weights that predictions and tests of all models need. Discriminators, teachers, feature banks
#: and copies of the initial weights are left out: only training uses them, and some reveal samples.
NEEDED = ("backbone.", "task.", "multitask.")
#: Entries of a checkpoint's ``reliability`` that are tensors.
_ARRAYS = ("logits", "labels", "features", "feature_labels")


def is_published(folder: Path) -> bool:
    """Return whether a folder contains a published model."""
    try:
        return read_json(folder / CONFIG).get("format") == FORMAT
    except (DataError, OSError):
        return False


def write_published(folder: Path, model: StoredModel, thresholds: Mapping[str, Any]) -> None:
    """Write the files of a model, except the card, to an existing folder.

    Args:
        folder: Where to write.
        model: Without local paths and weights of training; all that it has is written.
        thresholds: Confidence from which a precision is assured, by precision, for readers.
    """
    _save(folder / WEIGHTS, model.state_dict)
    arrays = {k: model.reliability[k] for k in _ARRAYS if k in model.reliability}
    if arrays:
        _save(folder / OUTPUTS, arrays)
    restored = dict(model.restored_by)
    if restored.get("tokenizer"):
        write_text(folder / TOKENIZER, read_tokens(restored.pop("tokenizer"), offline=True).text)
    written = [name for name in FILES if (folder / name).is_file()]
    write_json(folder / CONFIG, {
        "format": FORMAT,
        "version": VERSION,
        "tl_lightning": __version__,
        "classes": model.classes,
        "config": model.config,
        "aux_tasks": model.aux_tasks,
        "input_state": model.input_state,
        "restored_by": restored,
        "data": model.data,
        "reliability": {k: v for k, v in model.reliability.items() if k not in _ARRAYS},
        "thresholds": thresholds,
        "sha256": {name: _digest(folder / name) for name in written},
    })  # fmt: skip
    for name in written:  # safetensors makes files that only their owner can read
        shutil.copymode(folder / CONFIG, folder / name)


def _save(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors, of which some may share memory, which the format does not allow."""
    save_file({name: one.detach().cpu().contiguous().clone() for name, one in tensors.items()},
              file, {"format": "pt"})  # fmt: skip


def _digest(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def read_published(folder: Path) -> StoredModel:
    """Return a published model, as :func:`.read_model` returns one from a checkpoint.

    Raises:
        CheckpointError: If a file is missing or damaged, or another version wrote them.
    """
    try:
        found = read_json(folder / CONFIG)
    except DataError as error:
        raise CheckpointError(f"checkpoint={folder} is not a published model: {error}") from error
    if found.get("format") != FORMAT:
        raise CheckpointError(
            f"checkpoint={folder} is not a model published by tl_lightning, since its {CONFIG} has "
            f"format={found.get('format')!r}; set checkpoint=<folder written by tl-publish>"
        )
    if found.get("version") != VERSION:
        raise CheckpointError(
            f"checkpoint={folder} has version {found.get('version')!r} of the format, but this "
            f"version of tl_lightning reads version {VERSION}; install tl_lightning "
            f"{found.get('tl_lightning')}, which wrote it"
        )
    try:
        return _model(folder, found)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint={folder} has a {CONFIG} that was edited or written by another version "
            f"({type(error).__name__}: {error}); publish or download the model again"
        ) from error


def _model(folder: Path, found: Mapping[str, Any]) -> StoredModel:
    for name in ("config", "aux_tasks", "input_state", "restored_by", "data", "reliability"):
        if not isinstance(found[name], dict):
            raise TypeError(f"{name} is not a mapping")
    restored, reliability = dict(found["restored_by"]), dict(found["reliability"])
    digests = dict(found["sha256"])
    for name in digests:
        if name not in FILES:
            raise ValueError(f"{name!r} is not a file of a published model")
    if TOKENIZER in digests:
        restored["tokenizer"] = packed(_checked(folder, TOKENIZER, digests).read_text("utf-8"))
    if OUTPUTS in digests:
        reliability |= _tensors(_checked(folder, OUTPUTS, digests))
    if reliability:
        # JSON has no NaN: the temperature of a model that diverged.
        reliability["temperature"] = float(_or_nan(reliability["temperature"]))
    return StoredModel(
        config=found["config"],
        classes=tuple(map(str, found["classes"])),
        aux_tasks=found["aux_tasks"],
        input_state=found["input_state"],
        restored_by=restored,
        state_dict=_tensors(_checked(folder, WEIGHTS, digests)),
        data=found["data"],
        reliability=reliability,
        partial=True,
    )


def _or_nan(value: Any) -> Any:
    return math.nan if value is None else value


def _checked(folder: Path, name: str, digests: Mapping[str, Any]) -> Path:
    file = folder / name
    if not file.is_file():
        raise CheckpointError(
            f"checkpoint={folder} has no {name}; copy or download all of {', '.join(FILES)}"
        )
    if _digest(file) != digests[name]:
        raise CheckpointError(
            f"{file} is damaged: its content does not match the checksum in {CONFIG}; copy or "
            "download it again"
        )
    return file


def _tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} is not a safetensors file ({error}); copy or download it again"
        ) from error
