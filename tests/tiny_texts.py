"""Tiny text encoder with random weights and tiny text datasets, without downloads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers import config, plain_config
from tl_lightning.types import LayerGroup, TextSpec

GOOD = ("good", "great", "fine", "lovely", "moving")
BAD = ("bad", "awful", "dull", "boring", "poor")
FILLER = ("the", "film", "book", "plot", "sound", "was", "a", "very", "it", "and", "story", "un")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def tiny_bert(folder: Path, weights: bool = False, **changes: Any) -> Path:
    """Write ``config.json`` and ``tokenizer.json`` of a two-layer BERT, optionally with weights.

    Args:
        folder: Output folder.
        weights: Whether to write weights as well, drawn from a fixed seed.
        changes: Changes to the configuration.
    """
    pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: k for k, word in enumerate((*SPECIAL, *GOOD, *BAD, *FILLER, "##s", "##ly"))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_padding()  # as in many published tokenizers
    tokenizer.save(str(folder / "tokenizer.json"))
    network = {
        "model_type": "bert", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 32, "max_position_embeddings": 24, "vocab_size": len(vocabulary),
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(network | changes))
    if weights:
        import torch
        from transformers import BertConfig, BertModel

        with torch.random.fork_rng():
            torch.manual_seed(5)
            net = BertModel(BertConfig(**{k: v for k, v in (network | changes).items()
                                          if k != "model_type"}))  # fmt: skip
        net.save_pretrained(folder)
    return folder


def backbone(folder: Path, **changes: Any) -> Any:
    """Return a backbone with the encoder in a folder."""
    from tl_lightning.backbones.text import TextBackbone

    plain: dict[str, Any] = {
        "name": str(folder), "package": None, "pretrained": False, "network": None,
        "tokenizer": None, "pooling": "mean", "max_length": None, "grad_checkpointing": False,
        "lr_factor": 0.1,
    }  # fmt: skip
    return TextBackbone(**{**plain, **changes})


def sentence(kind: Sequence[str], seed: int, most: int = 14) -> str:
    """Return random words, one third of which indicate the class."""
    rng = np.random.default_rng(seed)
    words = [str(rng.choice(kind if k % 3 == 1 else FILLER)) for k in range(rng.integers(2, most))]
    return " ".join(words)


def reviews(root: Path, number: int = 12, seed: int = 0, most: int = 14) -> Path:
    """Write ``root/{neg,pos}/<n>_<m>.txt``."""
    for label, (name, kind) in enumerate((("neg", BAD), ("pos", GOOD))):
        (root / name).mkdir(parents=True, exist_ok=True)
        for k in range(number):
            text = sentence(kind, seed + 1000 * label + k, most)
            (root / name / f"{k}_{seed}.txt").write_text(text)
    return root


def imdb(root: Path, train: int = 16, test: int = 8) -> Path:
    """Write ``root/aclImdb/{train,test}/{neg,pos}/*.txt`` and ``train/unsup``, as in IMDb."""
    reviews(root / "aclImdb" / "train", train)
    reviews(root / "aclImdb" / "test", test, seed=50)
    (root / "aclImdb" / "train" / "unsup").mkdir()
    (root / "aclImdb" / "train" / "unsup" / "0_0.txt").write_text("no label")
    return root


def text_config(folder: Path, *overrides: str) -> dict[str, Any]:
    """Return the configuration of a short run on texts with the encoder in ``folder``."""
    plain = config()
    arguments = [
        "backbone=hf", f"backbone.name={folder}", "backbone.pretrained=false", "data.batch_size=4",
        "data.eval_batch_size=8", "data.steps_per_epoch=3", "data.bucket=2", "trainer.max_epochs=2",
        "optimizer.lr=0.01", "backbone.lr_factor=1.0", *overrides,
    ]  # fmt: skip
    found = plain_config(*arguments)
    epochs = found["trainer"]["max_epochs"]
    for key in ("trainer", "channels_last", "callbacks", "report", "checkpointing"):
        found[key] = plain[key]
    found["trainer"]["max_epochs"] = epochs
    found["baselines"] = []
    return found


class Letters:
    """Tokenizer with one id per letter, without the package transformers."""

    digest = "letters"

    def encode(self, texts: Sequence[str], limit: int) -> list[tuple[list[int], bool]]:
        """Return for each text its ids and whether it was truncated."""
        return [([ord(c) % 128 for c in text[:limit]], len(text) > limit) for text in texts]

    def length(self, text: str) -> int:
        """Return the number of ids."""
        return len(text)


class LetterCounts(torch.nn.Module):
    """Fixed network from texts to the mean of one random vector per letter."""

    takes = "texts"

    def __init__(self, *, pretrained: bool, lr_factor: float) -> None:
        super().__init__()
        self.lr_factor, self.out_features = lr_factor, 16
        self.input_spec = TextSpec(64, Letters())
        self.net = torch.nn.Embedding(128, 16)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map ids ``(B, L)``, padded with -1, to ``(B, 16)``."""
        weight = (inputs >= 0).float().unsqueeze(2)
        found: torch.Tensor = (self.net(inputs.clamp(min=0)) * weight).sum(1) / weight.sum(1)
        return found

    def layer_groups(self, chain: bool = False) -> list[LayerGroup]:
        """Return the only group."""
        return [LayerGroup("net", (self.net,), tuple(self.net.parameters()))]
