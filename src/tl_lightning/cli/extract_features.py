"""The command ``tl-extract-features``: write backbone features for other tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tl_lightning.cli.common import frozen_features, plain_command
from tl_lightning.cli.usage import SETTINGS, Usage
from tl_lightning.config.paths import folder_problem
from tl_lightning.errors import ConfigError
from tl_lightning.utils.owned import MARK, new_folder

__all__ = ["extract"]

#: Options of this command; all other arguments are overrides of the training configuration.
_KEYS = ("out", "dtype")
_DTYPES = ("float32", "stored")


USAGE = Usage(
    ("extract_features.py data=<name> [data.root=<folder>] out=<folder> [<option>=<value> ...]",),
    "Run a frozen backbone once over every image, and write "
    "<out>/<domain>/{train,val,test}.safetensors (features, labels) and <out>/manifest.json "
    "(names, classes).",
    {
        "Data and network": {
            "data": "a dataset of conf/data/, with its settings",
            "backbone": "a network of conf/backbone/",
        },
        "Output": {
            "out": "new folder",
            "dtype": "float32, or stored: the precision of the computation (default: float32)",
        },
        "Other settings": SETTINGS,
    },
    ("extract_features.py data=pacs data.root=<folder> backbone=resnet18 out=features",),
)


def extract() -> None:
    """Write features of a frozen backbone: ``tl-extract-features data=<name> out=<folder>``."""
    plain_command(_extract, USAGE)


def _extract(arguments: list[str]) -> None:
    pairs = [argument.partition("=") for argument in arguments]
    options = {key: value for key, _, value in pairs if key in _KEYS}
    overrides = [argument for argument in arguments if argument.partition("=")[0] not in options]
    if not options.get("out"):
        raise ConfigError("out is missing; set out=<folder for the features>")
    dtype = options.get("dtype", "float32")
    if dtype not in _DTYPES:
        raise ConfigError(f"dtype={dtype} must be float32 or stored; set dtype=float32")
    for key in ("model", "cache.features", "data.augment"):
        for override in overrides:
            if override.startswith(f"{key}="):
                raise ConfigError(
                    f"{override} is not supported by extract_features.py: features are computed by "
                    f"a frozen backbone without augmentation; omit {key}"
                )
    out = Path(options["out"]).expanduser().absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"out={out} exists and is not empty; set out=<another folder>")
    if problem := folder_problem(out, "out"):
        raise ConfigError(problem)
    from tl_lightning.training.fit import extract as extracted

    run = frozen_features(overrides, _KEYS)
    with new_folder(out) as draft:
        if not _write(extracted(run, draft), draft, dtype):
            (draft / MARK).unlink()  # not rank 0
            return
    print(f"features: {out}")


def _write(parts: Any, draft: Path, dtype: str) -> bool:
    """Write all splits to ``draft`` on rank 0; return whether this process is rank 0."""
    import torch
    from safetensors.torch import save_file

    if not parts.trainer.is_global_zero:
        return False
    data = parts.data
    names, domains = {}, {}
    for key, split in data.stored_splits().items():
        if key.split == "labelled":  # the few-shot target samples are part of target/train
            continue
        dataset = data.found[key.domain].splits()[key.split]
        features = data.features[key].rows(torch.arange(len(split)))
        tensors = {"features": features.float() if dtype == "float32" else features}
        if dataset.labels is not None:
            tensors["labels"] = torch.from_numpy(dataset.labels.copy())
        file = draft / key.domain / f"{key.split}.safetensors"
        file.parent.mkdir(exist_ok=True)
        save_file({k: v.contiguous() for k, v in tensors.items()}, file)
        names[str(key)], domains[key.domain] = list(split.names), data.found[key.domain].name
    manifest = {
        "data": data.name,
        "domains": domains,
        "classes": list(data.classes),
        "depends": next(iter(parts.features.sets.values())).depends,
        "names": names,
    }
    (draft / "manifest.json").write_text(json.dumps(manifest, indent=2, default=str) + "\n")
    return True
