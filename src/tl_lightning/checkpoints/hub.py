"""Published models on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from tl_lightning.backbones.hub import hub_access
from tl_lightning.checkpoints.published import FILES, is_published
from tl_lightning.errors import CheckpointError

__all__ = ["downloaded"]


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
