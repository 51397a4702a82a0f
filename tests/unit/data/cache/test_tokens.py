"""Token cache and the dataset of tokenized texts."""

from __future__ import annotations

import errno
import json

import numpy as np
import pytest
import torch

from tiny_texts import tiny_bert
from tl_lightning.data.cache import tokens as token_cache
from tl_lightning.data.cache.tokens import TextDataset, TokenCache, texts_digest, tokenised
from tl_lightning.errors import DataError
from tl_lightning.types import TextSpec
from tl_lightning.utils.owned import own

TEXTS = ["the film was good", "bad", "a very very dull story and it was the plot", "great book"]


class LetterTokenizer:
    """A character-level tokenizer that counts its calls."""

    digest = "letters"
    calls = 0

    def encode(self, texts, limit):
        LetterTokenizer.calls += 1
        return [([ord(c) for c in text][:limit], len(text) > limit) for text in texts]

    def length(self, text):
        return len(text)


def test_ids_lengths_and_truncation(tmp_path) -> None:
    cache = tokenised(TEXTS, TextSpec(20, LetterTokenizer()), "a", tmp_path)
    assert [cache.row(k).tolist() for k in range(4)] == [[ord(c) for c in t[:20]] for t in TEXTS]
    assert cache.lengths.tolist() == [17, 3, 20, 10]
    assert cache.cut.tolist() == [False, False, True, False]
    assert isinstance(cache.ids, np.memmap)
    assert cache.ids.dtype == np.int32


def test_texts_are_tokenized_once(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(LetterTokenizer, "calls", 0)
    first = tokenised(TEXTS, TextSpec(20, LetterTokenizer()), "a", tmp_path)
    second = tokenised(TEXTS, TextSpec(20, LetterTokenizer()), "a", tmp_path)
    assert (LetterTokenizer.calls, first.folder) == (1, second.folder)
    monkeypatch.setattr(token_cache, "CHUNK", 3)
    other = tokenised(TEXTS[::-1], TextSpec(20, LetterTokenizer()), "a", tmp_path)
    assert LetterTokenizer.calls == 3
    assert other.row(3).tolist() == first.row(0).tolist()


@pytest.mark.parametrize("changed", ["texts", "length", "tokenizer"])
def test_other_inputs_use_another_cache(tmp_path, changed, monkeypatch) -> None:
    first = tokenised(TEXTS, TextSpec(20, LetterTokenizer()), "a", tmp_path)
    if changed == "tokenizer":
        monkeypatch.setattr(LetterTokenizer, "digest", "others")
    texts = [*TEXTS[:3], "great books"] if changed == "texts" else TEXTS
    second = tokenised(
        texts, TextSpec(9 if changed == "length" else 20, LetterTokenizer()), "a", tmp_path
    )
    assert first.folder != second.folder


@pytest.mark.parametrize("file", ["ids.bin", "ends.bin", "cut.bin", "manifest.json"])
def test_incomplete_cache_is_rebuilt(tmp_path, file) -> None:
    first = tokenised(TEXTS, TextSpec(20, LetterTokenizer()), "a", tmp_path)
    path, rows = first.folder / file, [first.row(k).tolist() for k in range(4)]
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises((OSError, KeyError, ValueError)):
        TokenCache(first.folder)
    second = tokenised(TEXTS, TextSpec(20, LetterTokenizer()), "a", tmp_path)
    assert [second.row(k).tolist() for k in range(4)] == rows


def test_leftovers_of_failed_and_killed_builds_are_removed(tmp_path, monkeypatch) -> None:
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(token_cache.os, "fsync", full)
        message = r"the disk of .* is full; free some disk space, or set cache.dir="
        with pytest.raises(DataError, match=message):
            tokenised(TEXTS, TextSpec(20, LetterTokenizer()), "a", tmp_path)
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]
    folder = tokenised(TEXTS, TextSpec(20, LetterTokenizer()), "a", tmp_path).folder
    stale = tmp_path / f"{folder.name}.dead.tmp"
    own(stale)
    (folder / "manifest.json").write_text(json.dumps({"format": 1}))
    tokenised(TEXTS, TextSpec(20, LetterTokenizer()), "a", tmp_path)
    assert not stale.exists()


def test_digest_depends_on_text_boundaries_and_order() -> None:
    assert texts_digest(["ab", "c"]) != texts_digest(["a", "bc"])
    assert texts_digest(TEXTS) != texts_digest(TEXTS[::-1])


def test_batches_are_padded_to_their_longest_text(tmp_path) -> None:
    cache = tokenised(TEXTS, TextSpec(20, LetterTokenizer()), "a", tmp_path)
    labels = np.array([5, 6, 7])
    data = TextDataset(cache, np.array([3, 1, 0]), labels)
    batch = data.__getitems__([(1, 0), (0, 9)])
    assert batch["inputs"].dtype == torch.int64
    assert batch["inputs"].tolist() == [
        [*map(ord, "bad"), *[-1] * 7], [*map(ord, "great book")],
    ]  # fmt: skip
    assert batch["index"].tolist() == [1, 0]
    assert batch["labels"].tolist() == [6, 5]
    assert "labels" not in TextDataset(cache, np.array([1]), None).__getitems__([(0, 0)])
    assert len(data) == 3


def test_cached_ids_equal_those_of_a_real_tokenizer(tmp_path) -> None:
    from tl_lightning.backbones.tokenizer import read_tokens

    tokens = read_tokens(str(tiny_bert(tmp_path / "bert")), offline=True)
    cache = tokenised(TEXTS, TextSpec(8, tokens), "a", tmp_path / "cache")
    for k, text in enumerate(TEXTS):
        assert cache.row(k).tolist() == tokens.encode([text], 8)[0][0]
    assert cache.cut.tolist() == [False, False, True, False]
