"""Training throughput on this CPU: a plain loop, the defaults of timm and fastai, and tl_lightning.

    python benchmarks/train_step.py --threads 2 --rounds 7
    python benchmarks/train_step.py --accuracy /data/cifar10 data=cifar10 backbone=mobilenet_v2

resnet18 at 224 x 224, batches of 32, random uint8 images in memory; the time for scaling and
normalisation is included for all contestants. Each contestant runs in its own process, because
tl_lightning keeps freed memory (`tl_lightning.utils.process.keep_memory`), which must not affect
the others. They take turns, a few steps at a time, so that fluctuations of the machine affect all
equally. Results are medians over the rounds, without the first one. `full` trains all layers,
`frozen` only the last one.

plain   a typical training loop: float32, Adam.
timm    `create_optimizer_v2` with the defaults of timm's train.py: float32, SGD with momentum.
fastai  a `Learner` with its defaults: float32, its Adam, one cycle. Skipped if fastai is not
        installed (`pip install fastai`).
ours    `model=fine_tuning` (or feature_extraction without a cache) with the Trainer, and precision,
        memory format and optimizer as selected by `auto` on this machine.

With `--accuracy`, complete runs with trainer.precision=auto and 32-true and seeds 0, 1, 2 are made,
and the mean accuracies are printed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import torch
from torch import nn

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "train.py"
BATCH, CLASSES, BATCHES = 32, 120, 8
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    size = (BATCH * BATCHES, 3, 224, 224)
    inputs = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
    return inputs, torch.randint(0, CLASSES, (len(inputs),), generator=generator)


def batches(steps: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    inputs, labels = images()
    for step in range(steps):
        rows = slice(step % BATCHES * BATCH, (step % BATCHES + 1) * BATCH)
        yield inputs[rows], labels[rows]


def normal(x: torch.Tensor) -> torch.Tensor:
    return (x.float() / 255 - MEAN) / STD


Turn = Callable[[], None]


def loop(net: nn.Module, optimizer: Any, steps: int, wait: Turn) -> Iterator[float]:
    """Run a typical training loop, one round at a time."""
    data = list(batches(BATCHES))
    net.train()
    while True:
        wait()
        started = time.perf_counter()
        for step in range(steps):
            inputs, labels = data[step % BATCHES]
            loss = nn.functional.cross_entropy(net(normal(inputs)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        yield time.perf_counter() - started


def freeze(net: nn.Module) -> None:
    for name, parameter in net.named_parameters():
        parameter.requires_grad = name.startswith("fc.")


def plain(steps: int, frozen: bool, wait: Turn) -> Iterator[float]:
    from torchvision import models

    net = models.resnet18(num_classes=CLASSES)
    if frozen:
        freeze(net)
    trainable = [p for p in net.parameters() if p.requires_grad]
    return loop(net, torch.optim.Adam(trainable, lr=1e-3), steps, wait)


def timm(steps: int, frozen: bool, wait: Turn) -> Iterator[float]:
    import timm
    from timm.optim import create_optimizer_v2

    net = timm.create_model("resnet18", num_classes=CLASSES)
    if frozen:
        freeze(net)
    optimizer = create_optimizer_v2(net, opt="sgd", lr=0.05, momentum=0.9, weight_decay=2e-5)
    return loop(net, optimizer, steps, wait)


def fastai(steps: int, frozen: bool, wait: Turn) -> Iterator[float]:
    import fastai.callback.schedule  # noqa: F401, adds fit_one_cycle to Learner
    from fastai.callback.core import Callback
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from torchvision import models

    inputs, labels = images()

    class Memory:
        def __len__(self) -> int:
            return steps * BATCH

        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            return inputs[index % len(inputs)], labels[index % len(labels)]

    class Clock(Callback):
        seconds = 0.0

        def before_batch(self) -> None:
            self.learn.xb = (normal(self.learn.xb[0]),)

        def before_train(self) -> None:
            self.started = time.perf_counter()

        def after_train(self) -> None:
            Clock.seconds = time.perf_counter() - self.started

        def before_validate(self) -> None:
            from fastai.callback.core import CancelValidException

            raise CancelValidException

    net = models.resnet18(num_classes=CLASSES)
    if frozen:
        freeze(net)
    data = DataLoaders.from_dsets(Memory(), Memory(), bs=BATCH, num_workers=0, device="cpu")
    learner = Learner(data, net, loss_func=nn.CrossEntropyLoss(), cbs=[Clock()])
    while True:
        wait()
        with learner.no_logging():
            learner.fit_one_cycle(1)
        yield Clock.seconds


def ours(steps: int, frozen: bool, wait: Turn) -> Iterator[float]:
    import lightning

    from tl_lightning.config.compose import compose
    from tl_lightning.config.validation import check as validation
    from tl_lightning.training import build as building
    from tl_lightning.training import trainer as making
    from tl_lightning.utils.process import keep_memory, quiet

    quiet()
    keep_memory()
    model = "feature_extraction" if frozen else "fine_tuning"
    settings = (f"model={model}", "data=dogs", "backbone.pretrained=false", "trainer=cpu")
    run = validation.check(compose(settings))
    module = building.build_module(run, tuple(map(str, range(CLASSES))))
    data = [
        {"source": {"inputs": x, "labels": y, "index": torch.arange(BATCH)}}
        for x, y in batches(BATCHES)
    ]

    class Clock(lightning.Callback):
        def on_train_epoch_start(self, *_: Any) -> None:
            wait()
            self.started = time.perf_counter()

        def on_train_epoch_end(self, *_: Any) -> None:
            report_round(time.perf_counter() - self.started)

    class Memory(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return steps

        def __getitem__(self, step: int) -> dict[str, Any]:
            return data[step % BATCHES]

    loader = torch.utils.data.DataLoader(Memory(), batch_size=None)
    trainer = making.make_trainer(
        run.trainer, max_epochs=10_000, logger=False, enable_checkpointing=False,
        callbacks=[Clock()],
    )  # fmt: skip
    trainer.fit(module, train_dataloaders=loader)
    yield 0.0


CONTESTANTS = {"plain": plain, "timm": timm, "fastai": fastai, "ours": ours}


def report_round(seconds: float) -> None:
    print(f"\nround {seconds}", flush=True)  # the newline ends a progress bar


def contestant(args: argparse.Namespace) -> None:
    """Run rounds: a line on stdin starts a round, a line on stdout reports its duration."""
    torch.set_num_threads(args.threads)

    def wait() -> None:
        if not sys.stdin.readline():
            sys.exit(0)

    for seconds in CONTESTANTS[args.contestant](args.steps, args.frozen, wait):
        report_round(seconds)


def compete(args: argparse.Namespace, frozen: bool) -> dict[str, float]:
    """Return the images per second of every contestant."""
    players = {}
    for name in CONTESTANTS:
        command = [sys.executable, __file__, "--contestant", name, f"--threads={args.threads}"]
        command += [f"--steps={args.steps}", *(["--frozen"] if frozen else [])]
        players[name] = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    seconds: dict[str, list[float]] = {name: [] for name in players}
    for _ in range(args.rounds + 1):
        for name, player in list(players.items()):
            duration = turn(player)
            if duration is None:
                message = player.stderr.read().strip().splitlines()[-1:]
                print(f"{name} skipped: {' '.join(message)}")
                del players[name], seconds[name]
            else:
                seconds[name].append(duration)
    for player in players.values():
        player.stdin.close()
        player.wait()
    return {name: args.steps * BATCH / median(times[1:]) for name, times in seconds.items()}


def turn(player: Any) -> float | None:
    try:
        player.stdin.write("go\n")
        player.stdin.flush()
    except BrokenPipeError:
        return None
    for line in player.stdout:
        if line.startswith("round "):
            return float(line.split()[1])
    return None


def accuracy(root: Path, settings: list[str]) -> None:
    """Train with both precisions and print the mean accuracies."""
    results: dict[str, list[float]] = {"auto": [], "32-true": []}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(3):
            for precision, accuracies in results.items():
                run_dir = Path(folder) / f"{precision}-{seed}"
                command = [
                    sys.executable, str(SCRIPT), "model=fine_tuning", f"data.root={root}",
                    f"trainer.precision={precision}", f"seed={seed}", f"hydra.run.dir={run_dir}",
                    *settings,
                ]  # fmt: skip
                subprocess.run(command, check=True, capture_output=True)
                report = json.loads((run_dir / "report.json").read_text())
                accuracies.append(100 * report["metrics"]["source/test/acc"])
                print(f"seed {seed}, {report['device']}: {accuracies[-1]:.2f}", flush=True)
    for precision, accuracies in results.items():
        print(f"{precision}: {mean(accuracies):.2f} +- {stdev(accuracies):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", help="settings of train.py, with --accuracy")
    parser.add_argument("--accuracy", type=Path, metavar="ROOT", help="dataset folder")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--frozen", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contestant:
        contestant(args)
        return
    if args.accuracy:
        accuracy(args.accuracy.resolve(), args.settings)
        return
    for mode, frozen in (("full", False), ("frozen", True)):
        rates = compete(args, frozen)
        values = (f"{name} {rate:.1f} images/s" for name, rate in rates.items())
        print(f"{mode}: " + ", ".join(values))
        others = [name for name in rates if name != "ours"]
        ratios = (f"ours/{name} {rates['ours'] / rates[name]:.2f}x" for name in others)
        print(f"{mode}: " + ", ".join(ratios), flush=True)


if __name__ == "__main__":
    main()
