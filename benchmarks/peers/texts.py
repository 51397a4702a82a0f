"""Fine-tuning of a text encoder: the same network, texts and batches for everyone."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.peers.contest import Contestant, filled, race
from benchmarks.peers.nets import TEXT
from benchmarks.peers.rounds import Measured
from benchmarks.peers.rows import OURS, Row
from benchmarks.peers.setting import Setting

__all__ = ["fine_tuning", "network", "rows_of", "vocabulary", "write_texts"]

#: The peers by their names on the page: function of the contestant, and what is said of it.
PADDED, DYNAMIC = "transformers, padded to 512", "transformers, padded to the batch"
LOOPS = {
    PADDED: ("text_padded", "float32"),
    DYNAMIC: ("text_dynamic", "float32"),
    "transformers' Trainer, similar lengths": (
        "text_trainer", "bf16 if the processor has it; both are settings of its own",
    ),
}  # fmt: skip
#: What was asked for; of which of the loops is not said.
ASKED = 4.0


def write_texts(origin: Path, folder: Path, count: int) -> list[str]:
    """Copy the first ``count`` texts as class folders with train/, and four each of val/ and test/.

    Args:
        origin: Folder with train/<class>/*.txt and test/<class>/*.txt.
        folder: Where to write.
        count: Number of training texts of all classes together.

    Returns:
        The training texts.
    """
    classes = sorted(one.name for one in (origin / "train").iterdir() if one.is_dir())[:2]
    written = []
    for name in classes:
        each, files = count // len(classes), sorted((origin / "train" / name).glob("*.txt"))
        parts = {"train": files[:each], "val": files[each : each + 2]}
        parts["test"] = sorted((origin / "test" / name).glob("*.txt"))[:2]
        for part, chosen in parts.items():
            place = folder / part / name
            place.mkdir(parents=True)
            for file in chosen:
                text = file.read_text(encoding="utf-8")
                (place / file.name).write_text(text, encoding="utf-8")
                written += [text] if part == "train" else []
    return written


def vocabulary(texts: Sequence[str], size: int, folder: Path) -> None:
    """Write a WordPiece tokenizer whose vocabulary is learned from texts."""
    from tokenizers import BertWordPieceTokenizer
    from tokenizers.processors import BertProcessing

    tokens = BertWordPieceTokenizer()
    tokens.train_from_iterator(texts, vocab_size=size, show_progress=False)
    first, last = ((name, tokens.token_to_id(name)) for name in ("[CLS]", "[SEP]"))
    tokens.post_processor = BertProcessing(last, first)
    tokens.enable_padding()
    tokens.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "BertTokenizer", "model_max_length": TEXT["length"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def network(folder: Path) -> None:
    """Write a small BERT with random weights, which everyone loads."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=TEXT["words"], hidden_size=TEXT["width"], num_hidden_layers=TEXT["layers"],
        num_attention_heads=TEXT["heads"], intermediate_size=4 * TEXT["width"],
        max_position_embeddings=TEXT["length"],
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)


def fine_tuning(setting: Setting) -> list[Row]:
    """Compare passes over the same texts."""
    if setting.texts is None:
        return []
    count = TEXT["batch"] * (2 if setting.tiny else TEXT["batches"])
    environment = setting.environments["transformers"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_texts(setting.texts, folder / "texts", count)
        files = sorted((setting.texts / "train").glob("*/*.txt"))
        (folder / "network").mkdir()
        words = [one.read_text(encoding="utf-8") for one in files]
        vocabulary(words, TEXT["words"], folder / "network")
        network(folder / "network")
        peers = {
            title: Contestant(environment.python, "transformers_loops", function)
            for title, (function, _) in LOOPS.items() if not environment.problem
        }  # fmt: skip
        ours = Contestant(Path(sys.executable), "own", "text")
        found = race(setting, {**peers, OURS: ours}, count // TEXT["batch"], str(folder))
    return rows_of(found, count, setting.absent(["transformers"]))


def rows_of(found: Mapping[str, Measured], count: int, absent: Mapping[str, str]) -> list[Row]:
    """Return the rows of all loops, and of the one that pads to the maximum alone."""
    rows = []
    for key, title, chosen in (
        ("text", "Text fine-tuning: a pass", [*LOOPS, OURS]),
        ("text_padded", "Text fine-tuning: against padding to 512", [PADDED, OURS]),
    ):
        row = Row(key, title, "texts/s", "more", ASKED, absent=dict(absent))
        part = {n: replace(one, seconds=one.processor) for n, one in found.items() if n in chosen}
        filled(row, part, 1.0, {name: note for name, (_, note) in LOOPS.items()})
        for one in row.values.values():
            one.median = count / one.median
        rows.append(row)
    rows[0].how = _how(count)
    rows[1].how = (
        "The same turns, beside the loop as it is often documented only: every text padded to the "
        "maximum, float32."
    )
    return rows


def _how(count: int) -> str:
    return (
        f"The same {count} reviews of IMDb for everyone, batches of {TEXT['batch']}, at most "
        f"{TEXT['length']} tokens, dropout as BERT's by default; a turn is a pass, tokenised "
        "before, and its figure is by processor time, as other work shared the cores. BERT with "
        f"{TEXT['layers']} layers of {TEXT['width']}, {TEXT['heads']} heads and "
        f"{TEXT['words']:,} words, the same random weights; the peers' pooler and tl_lightning's "
        "mean over the tokens differ, and so do losses. The loops are those of transformers' "
        "documentation, with AdamW and a linear schedule. tl_lightning has its defaults: batches "
        "of similar length, and bfloat16 where the processor has it. The Trainer has the same two "
        "as settings, and sorts as many batches together as in a large dataset."
    )
