"""The command ``tl-publish``: write a trained model as a folder for others, and upload it."""

from __future__ import annotations

from pathlib import Path

from tl_lightning.checkpoints.places import check_place
from tl_lightning.cli.common import flag, options_of, plain_command
from tl_lightning.cli.usage import CHECKPOINT, Usage
from tl_lightning.errors import ConfigError

__all__ = ["publish"]

_KEYS = (
    "checkpoint", "out", "repo", "push", "private", "license", "authors", "source_outputs", "allow",
)  # fmt: skip
_DEFAULTS = {"push": "false", "private": "true", "source_outputs": "true"}


USAGE = Usage(
    (
        "publish.py checkpoint=<run or file.ckpt> out=<new folder> [<option>=<value> ...]",
        "publish.py checkpoint=<published folder> repo=<owner/name> push=true",
    ),
    "Write a folder for others: weights, configuration and a model card. tl.load(<folder>) and "
    "checkpoint=<folder> load it.",
    {
        "Model": CHECKPOINT,
        "Output": {
            "out": "new folder",
            "license": "such as mit",
            "authors": "[<name>,...]",
            "source_outputs": "false: leave out the outputs on source validation (default: true)",
        },
        "Hugging Face hub": {
            "repo": "<owner>/<name>",
            "push": "true: upload the folder (default: false)",
            "private": "false: make the model public (default: true)",
        },
    },
    ("publish.py checkpoint=runs/a out=published license=mit",),
)


def publish() -> None:
    """Publish a model: ``tl-publish checkpoint=<run or file> out=<folder>``."""
    plain_command(_publish, USAGE)


def _publish(arguments: list[str]) -> None:
    given = _DEFAULTS | options_of(arguments, _KEYS, repeated=_KEYS)
    if not given.get("checkpoint"):
        raise ConfigError("checkpoint is missing; set checkpoint=<run folder or file.ckpt>")
    push, private, outputs = (flag(key, given[key]) for key in _DEFAULTS)
    if not push and not given.get("out"):
        raise ConfigError("out is missing; set out=<new folder>")
    check_place(given["checkpoint"])  # the next imports take seconds
    from tl_lightning.checkpoints.published import is_published
    from tl_lightning.inference.publish import check_push, publish, push_folder

    repo = given.get("repo") or None
    if push:
        check_push(repo)
    folder = Path(given["checkpoint"]).expanduser()
    if not (push and is_published(folder)):
        if not given.get("out"):
            raise ConfigError("out is missing; set out=<new folder>")
        folder = publish(
            given["checkpoint"],
            given["out"],
            repo=repo,
            license=given.get("license") or None,
            authors=_names(given.get("authors", "")),
            source_outputs=outputs,
            allow=_names(given.get("allow", "")),
        )
        print(f"written: {folder}")
        for file in sorted(folder.iterdir()):
            print(f"  {file.name}: {file.stat().st_size / 1e6:,.1f} MB")
    elif given.get("out"):
        raise ConfigError(f"out={given['out']} has no effect: {folder} is published; leave it out")
    if push:
        assert repo is not None
        print(f"uploaded: {push_folder(folder, repo, private)}")
    elif repo:
        print("not uploaded; set push=true to upload it")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.strip("[]").split(",") if name.strip()]
