"""Benchmarks on texts: runs compared with TF-IDF, and training speed compared with a plain loop.

    python benchmarks/texts.py data=imdb data.root=/data --runs outputs/fine_tuning-imdb/<id> ...
    python benchmarks/texts.py data=imdb data.root=/data --speed

The first command prints test accuracies on the same texts. TF-IDF of words and bigrams with
logistic regression is trained on the training split; its penalty is chosen on the validation split,
and test labels are not used for any choice. The accuracy of a run is read from its report.json, and
only printed if the fingerprint shows that it was measured on the same texts.

The second command times training steps of the same network on the same texts. Both contestants take
turns, a few steps at a time, so that fluctuations of the machine affect both equally. Results are
medians over the rounds, without the first one. `plain` is a typical training loop: float32, every
text padded to the maximum length, AdamW. `ours` uses batches of similar length from tl_lightning's
sampler, padded to the longest text of the batch, with precision and optimizer as selected by `auto`
on this machine; module and losses are those of model=fine_tuning, without the Trainer. All other
arguments are settings of `train.py`.
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
from tl_lightning.config.schema import RunConfig
from tl_lightning.config.validation import check as validation
from tl_lightning.data.samplers.domain import DomainSampler
from tl_lightning.data.samplers.length import padding_share
from tl_lightning.training import build as building
from tl_lightning.types import Stream

PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0)
Round = tuple[float, int, int]


def reference(data: Any) -> dict[str, float]:
    """Return the test accuracy of the TF-IDF classifier by domain."""
    source = data.found["source"]
    tfidf = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    train = tfidf.fit_transform(source.train.samples)
    val = tfidf.transform(source.val.samples)
    best: tuple[float, Any] = (-1.0, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for penalty in PENALTIES:
            model = LogisticRegression(C=penalty, max_iter=500).fit(train, source.train.labels)
            best = max(best, (model.score(val, source.val.labels), model), key=lambda each: each[0])
    return {
        name: best[1].score(tfidf.transform(domain.test.samples), domain.test.labels)
        for name, domain in data.found.items()
    }


def compare(data: Any, runs: list[Path]) -> None:
    rows = {"TF-IDF, logistic regression": reference(data)}
    for folder in runs:
        report = json.loads((folder / "report.json").read_text())
        if report["dataset"]["fingerprint"] != data.fingerprint():
            print(f"{folder}: skipped, measured on other texts or splits")
            continue
        metrics = report["metrics"]
        rows[f"{report['name']}, seed {report['seed']} ({folder})"] = {
            domain: metrics[f"{domain}/test/acc"] for domain in data.found
        }
    for name, accuracies in rows.items():
        values = (f"{domain} {100 * acc:.1f} %" for domain, acc in accuracies.items())
        print("  ".join([*values, name]))


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def plain(run: RunConfig, data: Any, steps: int, device: str) -> Iterator[Round]:
    """Run a typical training loop, one round at a time."""
    module = building.build_module(run, data.classes)
    limit = module.backbone.input_spec.max_length
    net = module.backbone.to(device).train()
    head = nn.Linear(module.backbone.out_features, len(data.classes)).to(device)
    optimizer = torch.optim.AdamW([*net.parameters(), *head.parameters()], lr=2e-5)
    dataset = data.dataset("source", data.found["source"].train, train=True)
    generator = torch.Generator().manual_seed(0)
    while True:
        order = torch.randperm(len(dataset), generator=generator)[: steps * data.batch_size]
        batches = []
        for indices in order.split(data.batch_size):
            batch = dataset.__getitems__([(int(index), 0) for index in indices])
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


def ours(run: RunConfig, data: Any, steps: int, device: str) -> Iterator[Round]:
    """Train on batches of similar length, with automatic precision, one round at a time."""
    module = building.build_module(run, data.classes).to(device).train()
    optimizer = run.optimizer.build(params=list(module.parameters()))
    mixed = run.trainer.precision == "bf16-mixed"
    split = data.found["source"].train
    dataset = data.dataset("source", split, train=True)
    num_batches = len(split) // data.batch_size
    options = {"batch_size": data.batch_size, "num_batches": num_batches, "seed": 0, "domain": 0}
    sampler = data.train_sampler(Stream.SOURCE, split, **options)
    # The rounds go through complete passes, because the lengths of successive batches vary.
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
    """Return the fraction of padding in one pass for each way to form batches."""
    split = data.found["source"].train
    lengths = data._lengths("source", split)
    limit = data.form.max_length
    options = {"batch_size": data.batch_size, "num_batches": len(split) // data.batch_size}
    options |= {"seed": 0, "domain": 0}
    mixed = [index for index, _ in DomainSampler(size=len(split), **options)]
    similar = [index for index, _ in data.train_sampler(Stream.SOURCE, split, **options)]
    return {
        f"all to {limit}": float(1 - np.mean(lengths) / limit),
        "to the longest text of the batch": padding_share(lengths, mixed, data.batch_size),
        "batches of similar length": padding_share(lengths, similar, data.batch_size),
    }


def speed(run: RunConfig, data: Any, steps: int, rounds: int) -> None:
    device = "cuda" if run.trainer.accelerator == "gpu" else "cpu"
    for name, fraction in padding(data).items():
        print(f"padding {100 * fraction:5.1f} %  {name}")
    contestants = {"plain": plain, "ours": ours}
    turns = {name: train(run, data, steps, device) for name, train in contestants.items()}
    timings: dict[str, list[Round]] = {name: [] for name in contestants}
    for _ in range(rounds + 1):
        for name, turn in turns.items():
            timings[name].append(next(turn))
    rates = {}
    for name, all_rounds in timings.items():
        kept = all_rounds[1:]
        rates[name] = median(samples / seconds for seconds, samples, _ in kept)
        tokens = median(tokens / seconds for seconds, _, tokens in kept)
        print(f"{name:6} {rates[name]:8.2f} texts/s  {tokens:10,.0f} tokens/s")
    ratio = rates["ours"] / rates["plain"]
    print(f"ours is {ratio:.2f} times as fast ({run.trainer.precision})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="+", help="data=imdb data.root=/data backbone=minilm ...")
    parser.add_argument("--runs", nargs="*", type=Path, default=[])
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--steps", type=int, default=8, help="steps per round and contestant")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_intermixed_args()
    run = validation.check(compose(["model=fine_tuning", *args.settings]))
    data = run.data.build()
    data.discover()
    if not args.speed:
        compare(data, args.runs)
        return
    module = building.build_module(run, data.classes, pretrained=False)
    data.prepare(module.needs())
    speed(run, data, args.steps, args.rounds)


if __name__ == "__main__":
    main()
