"""Publishing of a trained model as a folder of plain files, and its upload on demand."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tl_lightning.checkpoints.places import NAME
from tl_lightning.checkpoints.published import CARD, FILES, is_published, write_published
from tl_lightning.checkpoints.stored import StoredModel
from tl_lightning.checkpoints.warm_start import checkpoint_of
from tl_lightning.errors import CheckpointError, ConfigError, DataError
from tl_lightning.evaluation.load import needed
from tl_lightning.inference.model_card import Publication, model_card, thresholds
from tl_lightning.inference.predictor import Predictor
from tl_lightning.inference.private import check_private, publishable
from tl_lightning.reporting.schema import read_report
from tl_lightning.utils.files import FULL, full_disk_means, write_text
from tl_lightning.utils.text import flatten

__all__ = ["publish", "push_folder"]


def publish(
    checkpoint: str | Path,
    out: str | Path,
    *,
    repo: str | None = None,
    license: str | None = None,
    authors: Sequence[str] = (),
    source_outputs: bool = True,
    allow: Sequence[str] = (),
) -> Path:
    """Write a folder from which others load the model, with a model card.

    The weights are those that predictions need, bit for bit; the folder is loaded and compared with
    the checkpoint before it gets its name. Paths of this machine and secrets are left out.

    Args:
        checkpoint: A checkpoint or run folder. Of a run, the card has its figures.
        out: A folder that does not exist yet, or is empty.
        repo: ``owner/name`` on the hub, for the card; None: the name of the folder.
        license: Identifier of the hub, such as ``mit``; None: the card says that there is none.
        authors: Names for the card.
        source_outputs: Whether to publish the outputs on source validation, from which the accuracy
            to expect on new data, the novelty of samples and thresholds are computed.
        allow: Full names of additional classes that the checkpoint's configuration may build.

    Returns:
        The folder.

    Raises:
        CheckpointError: If the checkpoint cannot be read, or the folder would predict otherwise.
        DataError: If the folder cannot be written, or would contain a path or a secret.
    """
    out = Path(out).expanduser().absolute()
    _check_out(out)
    file = checkpoint_of(Path(checkpoint).expanduser(), "checkpoint")
    if is_published(file.parent):
        raise ConfigError(
            f"checkpoint={checkpoint} is published already; set push=true to upload it"
        )
    predictor = Predictor.open(file, allow, "cpu")
    predictor.needs_classes("tl-publish")
    stored = predictor.stored
    model = publishable(stored, source_outputs, needed(predictor.module))
    run, report = _run_of(file)
    assured = thresholds(stored)
    publication = Publication(
        stored, run, report, repo or out.name, license, tuple(authors), source_outputs, assured,
        tuple(allow),
    )  # fmt: skip
    draft = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.tmp")
    with full_disk_means(f"the disk of {out} is full; free some space or set out= to another disk"):
        try:
            draft.mkdir(parents=True)
        except OSError as error:
            if error.errno in FULL:
                raise
            message = f"cannot write out={out}: {error.strerror}; set out=<another folder>"
            raise DataError(message) from error
        try:
            write_published(draft, model, assured)
            write_text(draft / CARD, model_card(publication))
            check_private(draft, _places(stored, file, run))
            _check_same(predictor, draft, allow)
            if out.exists():
                out.rmdir()  # empty, see _check_out
            os.replace(draft, out)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return out


def _check_out(out: Path) -> None:
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise DataError(
            f"out={out} exists and is not an empty folder; set out=<new folder>, or remove it"
        )


def _run_of(file: Path) -> tuple[Path | None, Mapping[str, Any] | None]:
    """Return the run whose selected checkpoint a file is, with its report; None for others."""
    run = file.absolute().parent.parent
    if not (run / "report.json").is_file():
        return None, None
    report = read_report(run)
    selected = str((report.get("selection") or {}).get("checkpoint"))
    same = (run / selected).is_file() and (run / selected).samefile(file)
    return (run, report) if same else (None, None)


def _places(stored: StoredModel, file: Path, run: Path | None) -> set[str]:
    """Return the absolute paths that are not published: those of checkpoint, run, data and code."""
    paths = {str(file.absolute()), str(Path.cwd()), *(() if run is None else (str(run),))}
    values = [value for value in flatten(stored.config).values() if isinstance(value, str)]
    paths |= {value for value in values if Path(value).is_absolute()}
    return {path for path in paths if len(Path(path).parts) > 2}


@torch.inference_mode()
def _check_same(first: Predictor, folder: Path, allow: Sequence[str]) -> None:
    """Raise CheckpointError unless a published folder gives the outputs of a checkpoint."""
    second = Predictor.open(folder, allow, "cpu")
    inputs = _any_inputs(first)
    if not torch.equal(inputs, _any_inputs(second)) or first.temperature != second.temperature:
        raise CheckpointError(_OTHER.format(first.file))
    for one, other in zip(_outputs(first, inputs), _outputs(second, inputs), strict=True):
        if not np.array_equal(one, other, equal_nan=True):
            raise CheckpointError(_OTHER.format(first.file))


def _outputs(predictor: Predictor, inputs: torch.Tensor) -> list[Any]:
    """Return features, logits and, where the model has them, the rejected samples."""
    features, logits = predictor.outputs(inputs)
    rejected = predictor.module.task.rejects(torch.from_numpy(features), torch.from_numpy(logits))
    return [features, logits, *([] if rejected is None else [rejected.numpy()])]


_OTHER = (
    "nothing is published: the published form of {} would give other outputs, which is a bug or an "
    "effect of own code; please report it"
)


def _any_inputs(predictor: Predictor) -> torch.Tensor:
    """Return a small batch of random inputs of a model."""
    generator = torch.Generator().manual_seed(0)
    if predictor.kind == "images":
        shape = (4, 3, predictor.spec.size, predictor.spec.size)
        return torch.randint(0, 256, shape, generator=generator).to(torch.uint8)
    if predictor.kind == "texts":
        return predictor.tokens(["a text", "another, longer text."])[0]
    width = int(predictor.stored.section("backbone")["in_features"])
    return torch.randn(4, width, generator=generator)


def push_folder(folder: Path, repo: str, private: bool) -> str:
    """Upload a published folder to the Hugging Face hub; return the address of the model.

    Args:
        folder: Written by :func:`publish`; only its known files are uploaded.
        repo: ``owner/name``; created if it does not exist.
        private: Whether only its owner can see it.

    Raises:
        ConfigError: If this machine has no token, or the existing model is public.
        DataError: If the upload fails.
    """
    check_push(repo)
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.repo_info(repo).private:
            raise ConfigError(
                f"repo={repo} exists and is public, but private=true; set private=false to publish "
                "it there, or another repo"
            )
        done = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=list(FILES),
            commit_message="Model published by tl_lightning",
        )
    except ConfigError:
        raise
    except Exception as error:  # its HTTP library differs between versions, and so do the errors
        first = (str(error).strip().splitlines() or [""])[0]
        raise DataError(
            f"the upload to repo={repo} failed ({type(error).__name__}: {first}); {folder} is "
            "complete, so repeat it with checkpoint=<that folder> push=true"
        ) from error
    return str(done.repo_url) if hasattr(done, "repo_url") else f"https://huggingface.co/{repo}"


def check_push(repo: str | None) -> None:
    """Raise ConfigError if nothing can be uploaded, before any work is done."""
    if repo is None or not NAME.fullmatch(repo):
        raise ConfigError(
            f"push=true needs a name on the hub, got repo={repo}; set repo=<owner>/<name>"
        )
    from huggingface_hub import get_token

    if get_token() is None:
        raise ConfigError(
            "push=true needs a token of the Hugging Face hub, and this machine has none; run "
            "hf auth login, or set the environment variable HF_TOKEN"
        )
