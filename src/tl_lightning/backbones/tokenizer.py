"""Tokenizers as plain text: what a network's token ids mean, kept with its checkpoints."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tl_lightning.errors import CheckpointError, ConfigError

__all__ = ["Tokens", "packed", "read_tokens"]

#: What a packed tokenizer begins with: no path does, and no interpolation can hide in it.
MARK = "zlib:"
_INSTALL = "type pip install 'tl_lightning[text]'"


class Tokens:
    """A tokenizer of the package ``tokenizers``: the same ids on every machine.

    Args:
        text: What ``tokenizer.json`` holds. Its own limits and padding do not count.

    Attributes:
        text: As given.
        digest: A hash of it.

    Raises:
        ConfigError: If the package is absent or the text is no tokenizer's.
    """

    def __init__(self, text: str) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise ConfigError(f"texts need the package tokenizers ({error}); {_INSTALL}") from error
        try:
            self.own: Any = Tokenizer.from_str(text)
        except Exception as error:  # the package raises plain exceptions
            raise ConfigError(
                f"backbone.tokenizer is not what tokenizer.json holds ({error}); type "
                "backbone.tokenizer=<folder or tokenizer.json>, or null for that of backbone.name"
            ) from error
        self.own.no_padding()
        self.own.no_truncation()
        self.text = text
        self.digest = hashlib.sha256(text.encode()).hexdigest()[:16]

    def encode(self, texts: Sequence[str], limit: int) -> list[tuple[list[int], bool]]:
        """Return the token ids of every text, at most ``limit`` of them, and whether it was cut.

        Special tokens count, and stay where a text is cut.
        """
        self.own.enable_truncation(limit)
        found = self.own.encode_batch(list(texts))
        self.own.no_truncation()
        return [(each.ids, bool(each.overflowing)) for each in found]

    def length(self, text: str) -> int:
        """Return the number of a text's tokens when nothing is cut, special tokens included."""
        return len(self.own.encode(text).ids)

    @property
    def size(self) -> int:
        """Number of different ids."""
        return int(self.own.get_vocab_size())

    def __repr__(self) -> str:
        return f"{type(self.own.model).__name__} {self.digest}"

    def __deepcopy__(self, memo: Any) -> Tokens:
        return self  # nothing changes it


def packed(text: str) -> str:
    """Return a text short enough for a checkpoint; :func:`read_tokens` takes it.

    >>> packed("a" * 1000).startswith("zlib:"), len(packed("a" * 1000)) < 50
    (True, True)
    """
    return MARK + base64.b64encode(zlib.compress(text.encode())).decode("ascii")


def read_tokens(place: str, offline: bool) -> Tokens:
    """Return the tokenizer that a setting names.

    Args:
        place: A ``tokenizer.json``, a folder, a name of the hub, or a packed text.
        offline: Whether nothing may be fetched.

    Raises:
        ConfigError: If it is no tokenizer of the package ``tokenizers``.
        CheckpointError: If there is none.
    """
    if place.startswith(MARK):
        return Tokens(zlib.decompress(base64.b64decode(place.removeprefix(MARK))).decode())
    path = Path(place).expanduser()
    if path.is_file() or (path / "tokenizer.json").is_file():
        file = path if path.is_file() else path / "tokenizer.json"
        return Tokens(file.read_text(encoding="utf-8"))
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ConfigError(f"texts need the package transformers ({error}); {_INSTALL}") from error
    try:
        found: Any = AutoTokenizer.from_pretrained(
            str(path) if path.is_dir() else place, local_files_only=offline or path.is_dir()
        )
    except Exception as error:  # the hub client raises its own kinds
        raise CheckpointError(_absent(place, str(error).splitlines()[0])) from error
    inner = getattr(found, "backend_tokenizer", None)
    if inner is None:
        raise ConfigError(
            f"the tokenizer of {place} ({type(found).__name__}) has no tokenizer.json; type "
            "backbone.tokenizer=<folder or tokenizer.json>, or another backbone.name"
        )
    tokens = Tokens(json.dumps(json.loads(inner.to_str()), ensure_ascii=False))
    # Where there are no files the library makes up a tokenizer that knows no word.
    if tokens.size <= len(found.all_special_tokens):
        raise CheckpointError(_absent(place, "it knows no words but the special tokens"))
    return tokens


def _absent(place: str, reason: str) -> str:
    return (
        f"no tokenizer for backbone {place}: {reason}; put its tokenizer.json there, or type "
        "backbone.tokenizer=<folder or tokenizer.json>"
    )
