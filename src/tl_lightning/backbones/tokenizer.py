"""Tokenizers as JSON text, which can be stored in checkpoints."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from tl_lightning.backbones.hub import hub_access
from tl_lightning.errors import CheckpointError, ConfigError

__all__ = ["Tokens", "packed", "read_tokens"]

#: Prefix of a packed tokenizer, which is neither a path nor an interpolation.
PREFIX = "zlib:"
#: The limit is a state of a tokenizer, which several threads may use.
_LIMIT = Lock()
_INSTALL = "run pip install 'tl_lightning[text]'"


class Tokens:
    """A tokenizer of the ``tokenizers`` package, with the same ids on every machine.

    Args:
        text: Content of ``tokenizer.json``; its truncation and padding settings are ignored.

    Attributes:
        text: The given text.
        digest: Hash of the text.

    Raises:
        ConfigError: If the package is not installed or the text is not a valid tokenizer.
    """

    def __init__(self, text: str) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise ConfigError(f"text data requires tokenizers ({error}); {_INSTALL}") from error
        try:
            self.own: Any = Tokenizer.from_str(text)
        except Exception as error:  # the package raises plain exceptions
            raise ConfigError(
                f"backbone.tokenizer is not a valid tokenizer.json ({error}); set "
                "backbone.tokenizer=<folder or tokenizer.json>, or null for that of backbone.name"
            ) from error
        self.own.no_padding()
        self.own.no_truncation()
        self.text = text
        self.digest = hashlib.sha256(text.encode()).hexdigest()[:16]

    def encode(self, texts: Sequence[str], limit: int) -> list[tuple[list[int], bool]]:
        """Return for each text its token ids, at most ``limit``, and whether it was truncated.

        Special tokens are included in the limit and kept on truncation.
        """
        with _LIMIT:
            self.own.enable_truncation(limit)
            encodings = self.own.encode_batch(list(texts))
            self.own.no_truncation()
        return [(encoding.ids, bool(encoding.overflowing)) for encoding in encodings]

    def length(self, text: str) -> int:
        """Return the number of tokens of a text without truncation, including special tokens."""
        return len(self.own.encode(text).ids)

    @property
    def size(self) -> int:
        """Size of the vocabulary."""
        return int(self.own.get_vocab_size())

    def __repr__(self) -> str:
        return f"{type(self.own.model).__name__} {self.digest}"

    def __deepcopy__(self, memo: Any) -> Tokens:
        return self  # immutable


def packed(text: str) -> str:
    """Return a text compressed for a checkpoint; :func:`read_tokens` reads it.

    >>> packed("a" * 1000).startswith("zlib:"), len(packed("a" * 1000)) < 50
    (True, True)
    """
    return PREFIX + base64.b64encode(zlib.compress(text.encode())).decode("ascii")


def read_tokens(place: str, offline: bool) -> Tokens:
    """Read a tokenizer.

    Args:
        place: A ``tokenizer.json``, a folder, a name on the hub, or a packed text.
        offline: Whether downloads are disabled.

    Raises:
        ConfigError: If it is not a tokenizer of the ``tokenizers`` package.
        CheckpointError: If it is not found.
    """
    if place.startswith(PREFIX):
        return Tokens(zlib.decompress(base64.b64decode(place.removeprefix(PREFIX))).decode())
    path = Path(place).expanduser()
    if path.is_file() or (path / "tokenizer.json").is_file():
        file = path if path.is_file() else path / "tokenizer.json"
        return Tokens(file.read_text(encoding="utf-8"))
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ConfigError(f"text data requires transformers ({error}); {_INSTALL}") from error
    try:
        with contextlib.nullcontext() if path.is_dir() else hub_access():
            loaded: Any = AutoTokenizer.from_pretrained(
                str(path) if path.is_dir() else place,
                local_files_only=offline or path.is_dir(),
                trust_remote_code=False,
            )
    except Exception as error:  # the hub client raises various exceptions
        raise CheckpointError(_not_found(place, str(error).splitlines()[0])) from error
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None:
        raise ConfigError(
            f"the tokenizer of {place} ({type(loaded).__name__}) has no tokenizer.json; set "
            "backbone.tokenizer=<folder or tokenizer.json>, or another backbone.name"
        )
    tokens = Tokens(json.dumps(json.loads(backend.to_str()), ensure_ascii=False))
    # Without tokenizer files, the library returns a tokenizer with an empty vocabulary.
    if tokens.size <= len(loaded.all_special_tokens):
        raise CheckpointError(_not_found(place, "its vocabulary has only special tokens"))
    return tokens


def _not_found(place: str, reason: str) -> str:
    return (
        f"tokenizer of backbone {place} not found: {reason}; put its tokenizer.json there, or set "
        "backbone.tokenizer=<folder or tokenizer.json>"
    )
