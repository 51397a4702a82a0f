"""What must not leave this machine with a published model: paths, addresses, names and secrets."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from tl_lightning.checkpoints.places import NAME
from tl_lightning.checkpoints.stored import StoredModel
from tl_lightning.config.compose import default_node
from tl_lightning.errors import DataError
from tl_lightning.utils.text import masked

__all__ = ["PLACE", "check_private", "publishable", "without_places"]

#: Sections that a trained model is rebuilt without, and what they are replaced by: they have the
#: folders, addresses and tags of the run, or learning rates that depend on the data.
_EMPTIED: dict[str, Any] = {
    "callbacks": {}, "logger": {}, "tags": [], "allow": [], "resume": None, "init": None,
    "baselines": [], "compile": False, "probe_lr_factor": 1.0, "reference_batch_size": None,
}  # fmt: skip
#: Settings that name files and that a trained model does not need.
_UNUSED = ("checkpoint", "weights", "dir", "tokenizer")
#: A path or an address within a text.
PLACE = re.compile(r"(?:\w+://|[A-Za-z]:\\|~|\.{0,2}/|\\\\)[^\s,;'\"()]*|(?:[\w.-]+/)+[\w.-]+")
#: Names of environment variables whose values are secrets.
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|(?:^|_)KEY|API_?KEY", re.IGNORECASE)
#: Shorter values of such variables, as of flags, may occur by chance.
_SHORTEST = 8


def publishable(stored: StoredModel, outputs: bool, needed: tuple[str, ...]) -> StoredModel:
    """Return a model without what is about the machine and the files that it was trained on.

    Args:
        stored: As read from its checkpoint.
        outputs: Whether to keep the outputs on source validation.
        needed: Prefixes of the weights to keep.
    """
    config = {**stored.config, **_EMPTIED, "data": _named_data(stored.section("data"))}
    precision = stored.section("trainer").get("precision")
    config["trainer"] = {**default_node("trainer", "auto"), "precision": precision}
    reliability = {
        key: value
        for key, value in stored.reliability.items()
        if outputs or key in ("temperature", "target_temperature", "adapted")
    }
    tokens = stored.restored_by.get("tokenizer")
    restored = without_places({k: v for k, v in stored.restored_by.items() if k != "tokenizer"})
    return replace(
        stored,
        config=without_places(masked(config)),
        restored_by=restored if tokens is None else {**restored, "tokenizer": tokens},
        data={k: v for k, v in stored.data.items() if k in ("fingerprint", "counts")},
        reliability=reliability,
        state_dict={k: v for k, v in stored.state_dict.items() if k.startswith(needed)},
    )


def _named_data(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of data that a model is made of: which classes its target may have."""
    target = data.get("target")
    classes = target.get("classes") if isinstance(target, Mapping) else None
    kept = {"target": {"classes": classes}} if isinstance(classes, str) else {}
    return {"name": data.get("name"), **kept}


def without_places(value: Any, key: str = "") -> Any:
    """Return plain values in which paths are replaced by their last part, and some left out.

    Names of networks on the hub stay, unless they are folders on this machine.

    >>> without_places({"groups": "/home/me/groups.csv", "weights": "/w.pth", "lr": 0.1})
    {'groups': 'groups.csv', 'weights': None, 'lr': 0.1}
    >>> without_places({"name": "microsoft/resnet-50", "url": "s3://bucket/shards"})
    {'name': 'microsoft/resnet-50', 'url': 'shards'}
    """
    if isinstance(value, Mapping):
        return {name: without_places(one, str(name)) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(one, key) for one in value]
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or not PLACE.search(value):
        return value
    named = value.removeprefix("hf_hub:").removeprefix("hf-hub:")
    if key == "name" and NAME.fullmatch(named) and not Path(value).expanduser().exists():
        return value
    if key in _UNUSED:
        return None
    last = PurePosixPath(PureWindowsPath(value).as_posix()).name
    return "" if last == Path.home().name else last


def check_private(folder: Path, places: Iterable[str]) -> None:
    """Raise DataError if a text file of a folder contains a place, the home folder or a secret.

    Args:
        folder: Of a published model.
        places: Absolute paths of this machine.
    """
    own = {str(Path.home()): "the home folder"} if len(Path.home().parts) > 1 else {}
    words = {**dict.fromkeys(map(str, places), "a path of this machine"), **own}
    secrets = {
        value: f"the value of the environment variable {name}"
        for name, value in os.environ.items()
        if _SECRET.search(name) and len(value) >= _SHORTEST
    }
    for file in sorted(folder.iterdir()):
        if file.suffix not in (".json", ".md"):
            continue
        text = _unescaped(file)
        found = [what for word, what in words.items() if word and _is_part(word, text)]
        found += [what for value, what in secrets.items() if value in text]
        if found:
            raise DataError(
                f"nothing is published: {file.name} would contain {found[0]}, from a name of a "
                "class, a setting or an option; rename it, or leave it out"
            )


def _unescaped(file: Path) -> str:
    """Return the content of a JSON or Markdown file, also without what escapes its characters."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".json":
        return json.dumps(json.loads(text), ensure_ascii=False).replace("\\\\", "\\")
    return re.sub(r"\\(?=[^A-Za-z0-9])", "", text) + "\n" + text


def _is_part(path: str, text: str) -> bool:
    """Return whether a path occurs in a text, not only as the beginning of another name."""
    return re.search(rf"(?<![\w.-]){re.escape(path)}(?![\w-])", text) is not None
