"""Texts: a plain TF-IDF classifier beside runs of ours, and our step against the plain loop.

    python benchmarks/texts.py data=imdb data.root=/data --runs outputs/fine_tuning-imdb/<id> ...
    python benchmarks/texts.py data=imdb data.root=/data --speed

The first prints test accuracies on the same texts. TF-IDF of words and pairs of words with logistic
regression learns from the training split; the strength of its penalty is chosen on the validation
split, and test labels choose nothing. A run's figure is that of its report.json, and is printed
only where it was measured on these very texts (its fingerprint says so).

The second times training steps of the same network on the same texts, two contestants taking turns,
a few steps at a time, so that the machine's moods hit both alike. Medians over the rounds, without
the first. `plain` is the loop as it is usually written: float32, every text padded to the greatest
length, AdamW. `ours` takes batches of like length from our sampler, padded to their own longest,
with precision and optimizer as `auto` chooses them here; module and losses are those of
model=fine_tuning, without the Trainer around them. Every further argument is a setting of
`train.py`.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from torch import nn

from tl_lightning.config.compose import compose
from tl_lightning.config.validation import check as validation
from tl_lightning.data.samplers.domain import DomainSampler
from tl_lightning.data.samplers.length import padding_share
from tl_lightning.training import build as building

PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0)
Round = tuple[float, int, int]


def reference(data: Any) -> dict[str, float]:
    """Return the plain classifier's accuracy by domain."""
    source = data.found["source"]
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    train = words.fit_transform(source.train.pictures)
    val = words.transform(source.val.pictures)
    best: tuple[float, Any] = (-1.0, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for penalty in PENALTIES:
            model = LogisticRegression(C=penalty, max_iter=500).fit(train, source.train.labels)
            best = max(best, (model.score(val, source.val.labels), model), key=lambda each: each[0])
    return {
        role: best[1].score(words.transform(domain.test.pictures), domain.test.labels)
        for role, domain in data.found.items()
    }


def compare(data: Any, runs: list[Path]) -> None:
    rows = {"TF-IDF, logistic regression": reference(data)}
    for folder in runs:
        report = json.loads((folder / "report.json").read_text())
        if report["dataset"]["fingerprint"] != data.fingerprint():
            print(f"{folder}: other texts or other splits; left out")
            continue
        metrics = report["metrics"]
        rows[f"{report['name']}, seed {report['seed']} ({folder})"] = {
            role: metrics[f"{role}/test/acc"] for role in data.found
        }
    for name, found in rows.items():
        print("  ".join([*(f"{role} {100 * acc:.1f} %" for role, acc in found.items()), name]))


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def plain(config: Any, data: Any, steps: int, device: str) -> Iterator[Round]:
    """The loop that everybody writes, a round at a time."""
    module = building.build_module(config, data.classes)
    limit = module.backbone.input_spec.max_length
    net = module.backbone.to(device).train()
    head = nn.Linear(module.backbone.out_features, len(data.classes)).to(device)
    optimizer = torch.optim.AdamW([*net.parameters(), *head.parameters()], lr=2e-5)
    dataset = data._dataset("source", data.found["source"].train, train=True)
    generator = torch.Generator().manual_seed(0)
    while True:
        order = torch.randperm(len(dataset), generator=generator)[: steps * data.batch_size]
        batches = []
        for places in order.split(data.batch_size):
            batch = dataset.__getitems__([(int(place), 0) for place in places])
            missing = limit - batch["inputs"].shape[1]
            batches.append((nn.functional.pad(batch["inputs"], (0, missing), value=-1), batch))
        synchronise()
        started = time.perf_counter()
        for inputs, batch in batches:
            loss = nn.functional.cross_entropy(
                head(net(inputs.to(device))), batch["labels"].to(device)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        synchronise()
        tokens = sum(int((inputs >= 0).sum()) for inputs, _ in batches)
        yield time.perf_counter() - started, len(order), tokens


def ours(config: Any, data: Any, steps: int, device: str) -> Iterator[Round]:
    """Batches of like length, at the precision that suits the device."""
    module = building.build_module(config, data.classes).to(device).train()
    optimizer = building.make(config["optimizer"], config, params=list(module.parameters()))
    mixed = config["trainer"]["precision"] == "bf16-mixed"
    split = data.found["source"].train
    dataset = data._dataset("source", split, train=True)
    place = {"batch_size": data.batch_size, "seed": 0, "domain": 0}
    whole = len(split) // data.batch_size
    sampler = data._sampler(split, num_batches=whole, **place)
    # A whole pass in turns, for its batches come in a mixed order of lengths.
    batches = iter(data._loader(dataset, data.batch_size, sampler))
    while True:
        done = tokens = 0
        synchronise()
        started = time.perf_counter()
        for _ in range(steps):
            batch = next(batches, None)
            if batch is None:
                sampler.set_epoch(sampler.epoch + 1)
                batches = iter(data._loader(dataset, data.batch_size, sampler))
                batch = next(batches)
            tokens += int((batch["inputs"] >= 0).sum())
            moved = {name: value.to(device) for name, value in batch.items()}
            with torch.autocast(device, torch.bfloat16) if mixed else nullcontext():
                terms = module.losses({"source": moved})
                loss = torch.stack([term.float() for term in terms.values()]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += len(batch["index"])
        synchronise()
        yield time.perf_counter() - started, done, tokens


def padding(data: Any) -> dict[str, float]:
    """Return the share of padding in one pass, by how batches are made."""
    split = data.found["source"].train
    lengths = data._lengths("source", split)
    limit = data.form.max_length
    place = {"batch_size": data.batch_size, "num_batches": len(split) // data.batch_size}
    place |= {"seed": 0, "domain": 0}
    mixed = [index for index, _ in DomainSampler(size=len(split), **place)]
    like = [index for index, _ in data._sampler(split, **place)]
    return {
        f"all to {limit}": float(1 - np.mean(lengths) / limit),
        "to the batch's longest": padding_share(lengths, mixed, data.batch_size),
        "batches of like length": padding_share(lengths, like, data.batch_size),
    }


def speed(config: Any, data: Any, steps: int, rounds: int) -> None:
    device = "cuda" if config["trainer"]["accelerator"] == "gpu" else "cpu"
    for name, share in padding(data).items():
        print(f"padding {100 * share:5.1f} %  {name}")
    contestants = {"plain": plain, "ours": ours}
    turns = {name: run(config, data, steps, device) for name, run in contestants.items()}
    found: dict[str, list[Round]] = {name: [] for name in contestants}
    for _ in range(rounds + 1):
        for name, turn in turns.items():
            found[name].append(next(turn))
    rates = {}
    for name, all_rounds in found.items():
        kept = all_rounds[1:]
        rates[name] = median(samples / seconds for seconds, samples, _ in kept)
        tokens = median(tokens / seconds for seconds, _, tokens in kept)
        print(f"{name:6} {rates[name]:8.2f} texts/s  {tokens:10,.0f} tokens/s")
    times = rates["ours"] / rates["plain"]
    print(f"ours is {times:.2f} times as fast ({config['trainer']['precision']})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="+", help="data=imdb data.root=/data backbone=minilm ...")
    parser.add_argument("--runs", nargs="*", type=Path, default=[])
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--steps", type=int, default=8, help="a round and contestant")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_intermixed_args()
    config = validation.check(compose(["model=fine_tuning", *args.settings]))
    data = building.build_data(config)
    data.discover()
    if not args.speed:
        compare(data, args.runs)
        return
    module = building.build_module(config, data.classes, pretrained=False)
    data.attach(module.backbone.input_spec, ("source",), ("source",))
    speed(config, data, args.steps, args.rounds)


if __name__ == "__main__":
    main()
