"""transformers: training loops as its documentation has them, and its Trainer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from benchmarks.peers.nets import TEXT
from benchmarks.peers.turns import Turns
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
    get_scheduler,
)
from transformers.trainer_pt_utils import get_length_grouped_indices

PASSES = 1000  # of the schedule; more than there are turns
RATE = 5e-5


def read(folder: Path) -> Iterator[tuple[str, int]]:
    """Yield the training texts and their labels."""
    for label, place in enumerate(sorted((folder / "texts" / "train").iterdir())):
        for file in sorted(place.iterdir()):
            yield file.read_text(encoding="utf-8"), label


def tokenised(folder: Path, **padding: Any) -> tuple[Any, list[dict[str, Any]]]:
    """Return the tokenizer, and the texts as it gives them."""
    tokens = AutoTokenizer.from_pretrained(folder / "network")
    texts, labels = zip(*read(folder), strict=True)
    found = tokens(list(texts), truncation=True, max_length=TEXT["length"], **padding)
    rows = [{key: found[key][k] for key in found} for k in range(len(texts))]
    return tokens, [{**row, "labels": label} for row, label in zip(rows, labels, strict=True)]


def text_padded(turns: Turns, folder: str) -> None:
    """Every text is padded to the maximum length, once and for all."""
    _, data = tokenised(Path(folder), padding="max_length")
    loop(turns, Path(folder), data, default_data_collator)


def text_dynamic(turns: Turns, folder: str) -> None:
    """Every batch is padded to its longest text."""
    tokens, data = tokenised(Path(folder))
    loop(turns, Path(folder), data, DataCollatorWithPadding(tokenizer=tokens))


def loop(turns: Turns, folder: Path, data: list, collate: Any) -> None:
    """Train as "Fine-tune in native PyTorch" does."""
    loader = DataLoader(data, shuffle=True, batch_size=TEXT["batch"], collate_fn=collate)
    model = AutoModelForSequenceClassification.from_pretrained(folder / "network", num_labels=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    schedule = get_scheduler(
        name="linear", optimizer=optimizer, num_warmup_steps=0,
        num_training_steps=PASSES * len(loader),
    )  # fmt: skip
    model.train()
    while True:
        turns.wait()
        for batch in loader:
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        turns.done(loss.item())


class Similar:
    """The order of transformers for texts of similar length, 50 batches sorted together."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(get_length_grouped_indices(self.lengths, TEXT["batch"], mega_batch_mult=50))


class Clock(TrainerCallback):
    """A turn is an epoch."""

    def __init__(self, turns: Turns) -> None:
        self.turns, self.loss = turns, torch.tensor(0.0)

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self.turns.wait()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        self.turns.done(float(self.loss))


class Grouped(Trainer):
    """Groups by length as in a large dataset, and keeps the last loss for the clock.

    Its ``group_by_length`` sorts at most 50 batches together, but a quarter of the dataset at most,
    which would be a single batch of the few texts here.
    """

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        lengths = [len(row["input_ids"]) for row in self.train_dataset]
        return Similar(lengths)

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        found = super().compute_loss(*args, **kwargs)
        self.clock.loss = (found[0] if isinstance(found, tuple) else found).detach()
        return found


def text_trainer(turns: Turns, folder: str) -> None:
    """The Trainer with its settings for speed: batches of similar length, and bfloat16."""
    tokens, data = tokenised(Path(folder))
    model = AutoModelForSequenceClassification.from_pretrained(
        Path(folder) / "network", num_labels=2
    )
    options = TrainingArguments(
        output_dir=f"{folder}/trainer", per_device_train_batch_size=TEXT["batch"],
        num_train_epochs=PASSES, learning_rate=RATE, use_cpu=True, bf16=has_bfloat16(),
        save_strategy="no", logging_strategy="no",
        report_to="none", disable_tqdm=True,
    )  # fmt: skip
    trainer = Grouped(model=model, args=options, train_dataset=data, processing_class=tokens)
    trainer.clock = Clock(turns)
    trainer.add_callback(trainer.clock)
    trainer.train()


def has_bfloat16() -> bool:
    """Return whether the processor computes in bfloat16, not only emulates it."""
    path = Path("/proc/cpuinfo")
    return path.is_file() and "avx512_bf16" in path.read_text()
