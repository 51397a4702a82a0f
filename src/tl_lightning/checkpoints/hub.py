"""Published models on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from tl_lightning.backbones.hub import hub_access
from tl_lightning.checkpoints.published import FILES, is_published
from tl_lightning.errors import CheckpointError

__all__ = ["NAME", "downloaded", "hub_name"]

#: ``owner/name``, as the hub allows it.
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
#: Endings of files, which are misspelt paths rather than names on the hub.
_FILES = (".ckpt", ".pt", ".pth", ".safetensors", ".json", ".bin")


def hub_name(path: Path) -> str | None:
    """Return a path that is a name on the hub, ``owner/name`` or ``owner/name@revision``, as text.

    None for others: paths of files, and paths whose first folder exists, which are misspelt.

    >>> hub_name(Path("owner/dogs@v1"))
    'owner/dogs@v1'
    >>> [hub_name(Path(name)) for name in ("outputs/dann/run", "owner/last.ckpt", "dogs")]
    [None, None, None]
    """
    text = path.as_posix()
    name, _, revision = text.partition("@")
    valid = NAME.fullmatch(name) and re.fullmatch(r"[\w./-]*", revision)
    if not valid or name.endswith(_FILES) or Path(name).parent.is_dir():
        return None
    return text


def downloaded(name: str, key: str) -> Path:
    """Return the folder of a model on the hub, of which the files that are read are downloaded.

    A version that was downloaded before is used if the hub cannot be reached.

    Args:
        name: ``owner/name`` or ``owner/name@revision`` (a branch, tag or commit).
        key: Setting that contains the name, for the error message.

    Raises:
        CheckpointError: If it is not found there, or cannot be downloaded.
    """
    repository, _, revision = name.partition("@")
    from huggingface_hub import snapshot_download

    try:
        with hub_access():
            folder = Path(
                snapshot_download(repository, revision=revision or None, allow_patterns=list(FILES))
            )
    except Exception as error:  # its HTTP library differs between versions, and so do the errors
        raise CheckpointError(
            f"{key}={name} is neither a file or folder here nor a model that can be downloaded "
            f"from the Hugging Face hub: {_reason(error)}; set {key}=<run folder, published "
            "folder or owner/name on the hub>"
        ) from error
    if not is_published(folder):
        raise CheckpointError(
            f"{key}={name} is on the Hugging Face hub, but was not published by tl_lightning; set "
            f"{key}=<model written by tl-publish>"
        )
    return folder


def _reason(error: Exception) -> str:
    """Return an error of the hub's client as one short line."""
    kind = type(error).__name__
    known = {
        "RepositoryNotFoundError": "it does not exist there, or is private and this machine is not "
        "logged in",
        "RevisionNotFoundError": "it has no such revision",
        "GatedRepoError": "its owner has to grant access first",
        "LocalEntryNotFoundError": "the hub cannot be reached, and it was not downloaded before",
        "IncompleteSnapshotError": "the hub cannot be reached, and it was not downloaded before",
    }
    first = (str(error).strip().splitlines() or [""])[0]
    return known.get(kind, f"{kind}: {first}" if first else kind)
