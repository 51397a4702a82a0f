"""Description of an exported model: contract of inputs and outputs, origin and licences."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tl_lightning import __version__
from tl_lightning.checkpoints.io import StoredModel
from tl_lightning.data.io.images import FORMATS, shorter_side
from tl_lightning.data.transforms.vectors import vector_width
from tl_lightning.inference.predictor import Predictor
from tl_lightning.inference.private import without_places
from tl_lightning.types import InputSpec, TextSpec
from tl_lightning.utils.text import flatten, masked

__all__ = ["contract", "licence", "origin", "preprocessing", "rejection"]

#: Sections of the configuration whose plain values are part of the origin.
_SECTIONS = ("model", "backbone", "head", "method", "optimizer", "scheduler")
_SINGLE = ("seed", "selection", "head_init", "trainer.max_epochs", "trainer.precision")
#: A path: absolute, relative to the home or parent folder, or of Windows.
_PATH = re.compile(r"[/~\\]|\.\.?[/\\]|[A-Za-z]:[/\\]|file:")


def preprocessing(predictor: Predictor) -> dict[str, Any]:
    """Return how image files become inputs of the network; ``predict_numpy.py`` reads it."""
    spec: InputSpec = predictor.spec
    return {
        "formats": list(FORMATS),
        "orientation": "EXIF orientation is applied",
        "colours": "RGB; transparent pixels on white; the first frame of an animation",
        "white": predictor.stored.input_state.get("max_value"),
        "white_means": "value that becomes 255 in images of more than 8 bits; null: 65535 for "
        "integers unless none is above 255, and 255 for other numbers",
        "jpeg": "decoded at 1/2, 1/4 or 1/8 if both sides then are at least twice shorter_side",
        "most_pixels": 2**24,
        "most_pixels_means": "larger images are averaged over squares of pixels first",
        "shorter_side": shorter_side(spec),
        "interpolation": spec.interpolation,
        "antialias": spec.interpolation != "nearest",
        "crop": spec.size,
        "crop_means": "the centre; offset round((side - crop) / 2), halves to even",
        "layout": "uint8, RGB, channels first; scaling and normalisation are inside the network",
        "scale": 255.0,
        "mean": list(spec.mean),
        "std": list(spec.std),
    }


def contract(predictor: Predictor, resize: bool) -> dict[str, Any]:
    """Return kind, name, type and shape of the input."""
    spec = predictor.spec
    if isinstance(spec, InputSpec):
        size: Any = ["height", "width"] if resize else [spec.size, spec.size]
        found = {"kind": "images", "dtype": "uint8", "shape": ["batch", 3, *size]}
        how = (
            "RGB images of any size, one size per batch; resized and cropped by the network"
            if resize
            else "RGB images as described by preprocessing"
        )
        return {"name": "inputs", **found, "means": how, "preprocessing": preprocessing(predictor)}
    if isinstance(spec, TextSpec):
        return {
            "name": "inputs", "kind": "texts", "dtype": "int64", "shape": ["batch", "length"],
            "means": "token ids with special tokens, padded with -1 on the right",
            "max_length": spec.max_length, "padding": -1, "tokenizer": "tokenizer.json",
        }  # fmt: skip
    width = vector_width(predictor.stored.input_state, spec.width)
    return {
        "name": "inputs", "kind": "vectors", "dtype": "float32", "shape": ["batch", width],
        "means": "vectors as in the files of the data; columns are selected and scaled by the "
        f"network (scale={predictor.stored.input_state.get('scale', 'none')})",
    }  # fmt: skip


def rejection(predictor: Predictor) -> dict[str, Any] | None:
    """Return how the checkpoint recognises samples of no class; the file does not compute it.

    None if it does not.
    """
    one = predictor.module.task.rejection
    if one is None or not predictor.recognises_unknown:
        return None
    if one.score == "method":
        return {"score": "method", "means": "by a method of its own, which is not exported"}
    means = {
        "entropy": "entropy of softmax(logits / temperature), divided by log(classes)",
        "energy": "-temperature * logsumexp(logits / temperature)",
    }
    return {
        "score": one.score, "temperature": float(one.temperature),
        "threshold": float(one.threshold),
        "means": f"{means[one.score]}; above the threshold, a sample is of none of the classes",
    }  # fmt: skip


def origin(predictor: Predictor) -> dict[str, Any]:
    """Return what the model was trained with, without paths of a machine and without secrets."""
    stored = predictor.stored
    flat = flatten({name: stored.config.get(name) or {} for name in _SECTIONS})
    whole = flatten(stored.config)
    flat |= {name: whole[name] for name in _SINGLE if name in whole}
    plain = {
        key: without_places(value, key.rpartition(".")[2])
        for key, value in masked(flat).items()
        if not key.endswith("_target_")
    }
    config = {key: value for key, value in plain.items() if value is not None and value != {}}
    return {
        "checkpoint_sha256": predictor.checksum,
        "model": stored.section("model").get("name"),
        "backbone": _without_path(_backbone(stored)),
        "methods": sorted(stored.config.get("method") or {}),
        "data": stored.section("data").get("name"),
        "data_fingerprint": stored.data.get("fingerprint"),
        "samples": dict(stored.data.get("counts") or {}),
        "selection": stored.config.get("selection"),
        "adapted_to_target": "target" in predictor.module.train_on,
        "config": config,
    }


def _backbone(stored: StoredModel) -> str:
    node = stored.section("backbone")
    return str(node.get("name") or str(node["_target_"]).rpartition(".")[2])


def _without_path(value: Any) -> Any:
    """Return a value with every path replaced by its last part.

    >>> _without_path("/home/me/weights.pth"), _without_path("org/name"), _without_path(["~/a", 1])
    ('weights.pth', 'org/name', ['a', 1])
    """
    if isinstance(value, list | tuple):
        return [_without_path(one) for one in value]
    if not isinstance(value, str):
        return value
    if _PATH.match(value) or (("/" in value or "\\" in value) and Path(value).exists()):
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return value


def licence(stored: StoredModel) -> dict[str, str]:
    """Return what is known of the licence of the pretrained weights."""
    node: Mapping[str, Any] = stored.section("backbone")
    kind = str(node["_target_"]).rpartition(".")[2]
    if stored.partial:
        return {"weights": "those of a published model, see its card", "licence": "unknown"}
    if node.get("checkpoint") or stored.config.get("init"):
        return {"weights": "a run that started from another run", "licence": "unknown"}
    if node.get("weights"):
        name = _without_path(str(node["weights"]))
        return {"weights": f"{_backbone(stored)} from the file {name}", "licence": "unknown"}
    if not node.get("pretrained"):
        return {"weights": "not pretrained", "licence": "none but that of the training data"}
    if kind == "TimmBackbone":
        import timm

        found = timm.models.get_pretrained_cfg(str(node["name"]))
        stated = getattr(found, "license", None)
        weights = f"timm {node['name']}"
        return {
            "weights": weights,
            "licence": f"{stated} (stated by timm)" if stated else "unknown",
        }
    library = {"TorchvisionBackbone": "torchvision", "TextBackbone": "transformers"}.get(kind, kind)
    tag = f" {node['tag']}" if node.get("tag") else ""
    weights = f"{library} {_without_path(_backbone(stored))}{tag}"
    return {"weights": weights, "licence": "unknown"}


def as_text(description: Mapping[str, Any]) -> str:
    """Return a description as JSON."""
    return json.dumps(description, ensure_ascii=False, allow_nan=False)


def versions() -> dict[str, str]:
    """Return the versions of this package and of torch."""
    return {"tl_lightning": __version__, "torch": str(torch.__version__)}
