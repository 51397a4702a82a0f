"""The command that writes features for other tools."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tl_lightning.cli.common import plain_command
from tl_lightning.config.compose import composed
from tl_lightning.errors import ConfigError

__all__ = ["extract"]

#: What is the command's own; all else goes to the training configuration.
_KEYS = ("out", "dtype")
_DTYPES = ("float32", "stored")


def extract() -> None:
    """Write a frozen network's features: ``tl-extract data=<name> data.root=... out=<folder>``."""
    plain_command(
        _extract,
        "usage: extract.py data=<name> [data.root=<folder>] [backbone=<name>] out=<folder>\n"
        "                  [dtype=float32|stored] [any other setting of train.py ...]\n"
        "Runs the backbone once over every picture and writes\n"
        "<out>/<domain>/{train,val,test}.safetensors (features, labels) and <out>/manifest.json\n"
        "(names, classes). dtype=stored keeps the precision that they were computed in.",
    )


def _extract(arguments: list[str]) -> None:
    pairs = [argument.partition("=") for argument in arguments]
    own = {key: value for key, _, value in pairs if key in _KEYS}
    others = [argument for argument in arguments if argument.partition("=")[0] not in own]
    if not own.get("out"):
        raise ConfigError("out is missing; type out=/a/folder/for/the/features")
    dtype = own.get("dtype", "float32")
    if dtype not in _DTYPES:
        raise ConfigError(f"dtype={dtype} is neither float32 nor stored; type dtype=float32")
    for key in ("model", "cache.features", "data.augment"):
        for other in others:
            if other.startswith(f"{key}="):
                raise ConfigError(
                    f"{other} has no place here: features are those of plain pictures from a "
                    f"frozen backbone; leave {key} out"
                )
    out = Path(own["out"]).expanduser().absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"out={out} is there already and not empty; type another folder")
    others += ["model=feature_extraction", "cache.features=full"]
    others += ["logger={}", "callbacks={}"]
    config = composed(others, _KEYS)
    if "augment" in config["data"]:  # texts and vectors have none
        config["data"]["augment"] = "none"
    from tl_lightning.config.instantiate import find_class
    from tl_lightning.training.fit import stored

    data, _ = find_class(config["data"]["_target_"], "data")
    if not data.storable:
        raise ConfigError(
            f"data={config['data']['name']} has no place for each sample under which features are "
            "kept: vectors are features already; of a stream give the pictures it was made of"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent))
    try:
        if not _write(stored(config, draft), draft, dtype):
            return  # not the first rank
        if out.exists():
            out.rmdir()
        os.replace(draft, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    print(f"features: {out}")


def _write(parts: Any, draft: Path, dtype: str) -> bool:
    """Write every split below ``draft``; return whether this process is the one to do so."""
    import torch
    from safetensors.torch import save_file

    if not parts.trainer.is_global_zero:
        return False
    data = parts.data
    names, domains = {}, {}
    for key, split in data.stored_splits().items():
        role, _, name = key.partition("/")
        if role not in data.roles:  # the few labelled pictures of a target are in its train
            continue
        whole = getattr(data.found[role], name)
        features = data.features[key].rows(torch.arange(len(split)))
        tensors = {"features": features.float() if dtype == "float32" else features}
        if whole.labels is not None:
            tensors["labels"] = torch.from_numpy(whole.labels.copy()).long()
        folder = draft / role
        folder.mkdir(exist_ok=True)
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / f"{name}.safetensors")
        names[key], domains[role] = list(split.names), data.found[role].name
    manifest = {
        "data": data.name,
        "domains": domains,
        "classes": list(data.classes),
        "depends": next(iter(parts.features.sets.values())).depends,
        "names": names,
    }
    (draft / "manifest.json").write_text(json.dumps(manifest, indent=2, default=str) + "\n")
    return True
