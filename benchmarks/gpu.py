"""What a GPU gives, in one process and less than six minutes.

    python benchmarks/gpu.py                          # on a GPU
    python benchmarks/gpu.py device=cpu tiny=true     # to try the script

Every figure is the median of five turns in one process; turns of the variants of a part alternate.
Parts that would begin after ``seconds`` are left out and named. Only the script was tried on a CPU:
none of the figures has been measured on a GPU yet.

precision   a step of resnet50 (224 pixels, 128 images): float32 without and with TF32, bfloat16,
            channels-last, and compiled by block
graphs      DANN's step on 64 + 64 images of 28 pixels: eager, and captured in a CUDA graph
optimizer   Adam of resnet50's parameters: loop, foreach, fused
transfer    copy and step of 128 images one after the other, and with pinned double buffering on a
            stream of its own
ours        the same step of resnet50 by tl_lightning with its defaults on this device, against the
            best plain loop above
memory      largest allocated memory of a step of each variant of ``precision``
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.peers import nets

Step = Callable[[], Any]


@dataclass
class Run:
    """What all parts share.

    Attributes:
        device: Where steps run.
        tiny: Whether to use tiny sizes.
        seconds: Time after which no part begins.
        turns: Number of counted turns of each variant.
    """

    device: torch.device
    tiny: bool = False
    seconds: float = 300.0
    turns: int = 5
    started: float = field(default_factory=time.perf_counter)

    @property
    def cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Wait until the device has finished."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def images(self) -> tuple[Tensor, Tensor]:
        """Return a batch on the device for the large network."""
        count, size = (2, 32) if self.tiny else (128, 224)
        torch.manual_seed(0)
        inputs = torch.randn(count, 3, size, size, device=self.device)
        return inputs, torch.randint(0, 1000, (count,), device=self.device)


def network(run: Run) -> nn.Module:
    """Return the large network: resnet50, or resnet18 at tiny size."""
    from torchvision import models

    torch.manual_seed(0)
    net = models.resnet18() if run.tiny else models.resnet50()
    return net.to(run.device)


def timed(run: Run, variants: Mapping[str, Step], steps: int) -> dict[str, float]:
    """Return milliseconds per step of each variant; turns alternate, the first is not counted."""
    found: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(run.turns + 1):
        for name, step in variants.items():
            run.wait()
            started = time.perf_counter()
            for _ in range(steps):
                step()
            run.wait()
            if turn:
                found[name].append(1000 * (time.perf_counter() - started) / steps)
    return {name: median(values) for name, values in found.items()}


def trained(
    run: Run, net: nn.Module, inputs: Tensor, labels: Tensor, bf16: bool, tf32: bool = False
) -> Step:
    """Return a step of a plain loop."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=run.cuda)

    def step() -> None:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        casts = torch.autocast(run.device.type, torch.bfloat16) if bf16 else nullcontext()
        with casts:
            loss = functional.cross_entropy(net(inputs), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def precision(run: Run) -> dict[str, float]:
    """Return milliseconds of a step by precision, memory format and compilation."""
    inputs, labels = run.images()
    last = inputs.contiguous(memory_format=torch.channels_last)

    def made(kind: Any = torch.contiguous_format) -> nn.Module:
        return network(run).to(memory_format=kind)

    variants = {
        "float32": trained(run, made(), inputs, labels, False),
        "TF32": trained(run, made(), inputs, labels, False, True),
        "bfloat16": trained(run, made(), inputs, labels, True, True),
        "bfloat16, channels-last": trained(
            run, made(torch.channels_last), last, labels, True, True
        ),
    }
    if run.cuda:  # compilation takes most of a minute on a CPU, and is not what is asked there
        net = made(torch.channels_last)
        for name in ("layer1", "layer2", "layer3", "layer4"):
            for block in getattr(net, name):
                block.compile()
        variants["bfloat16, channels-last, blocks compiled"] = trained(
            run, net, last, labels, True, True
        )
    return timed(run, variants, 2 if run.tiny else 10)


def memory(run: Run) -> dict[str, float]:
    """Return the largest allocated memory of a step in MiB; nothing on a CPU."""
    if not run.cuda:
        return {}
    inputs, labels = run.images()
    found = {}
    for name, bf16 in (("float32", False), ("bfloat16", True)):
        step = trained(run, network(run), inputs, labels, bf16)
        step()
        torch.cuda.reset_peak_memory_stats(run.device)
        step()
        found[name] = torch.cuda.max_memory_allocated(run.device) / 2**20
    return found


def graphs(run: Run) -> dict[str, float]:
    """Return milliseconds of DANN's small step, eager and in a CUDA graph."""
    inputs, labels = (part.to(run.device) for part in nets.images(nets.DANN, domains=2)[0])
    scaled = nets.normal(inputs.cpu()).to(run.device)
    half = len(scaled) // 2
    truth = torch.cat([torch.ones(half), torch.zeros(half)]).to(run.device)

    def made(capturable: bool) -> Step:
        features, classify, critic = (part.to(run.device) for part in nets.dann_parts())
        weights = [w for part in (features, classify, critic) for w in part.parameters()]
        optimizer = torch.optim.Adam(weights, lr=nets.RATE, capturable=capturable)

        def step() -> None:
            optimizer.zero_grad(set_to_none=False)
            found = features(scaled)
            domains = critic(nets.Reverse.apply(found)).squeeze(1)
            loss = functional.cross_entropy(classify(found[:half]), labels[:half])
            loss = loss + functional.binary_cross_entropy_with_logits(domains, truth)
            loss.backward()
            optimizer.step()

        return step

    variants = {"eager": made(False)}
    if run.cuda:
        step = made(True)
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):  # as the documentation of CUDA graphs asks
            for _ in range(3):
                step()
        run.wait()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        variants["CUDA graph"] = graph.replay
    return timed(run, variants, 2 if run.tiny else 100)


def optimizer(run: Run) -> dict[str, float]:
    """Return milliseconds of Adam by implementation."""
    variants = {}
    for name, options in (
        ("loop", {"foreach": False}), ("foreach", {"foreach": True}), ("fused", {"fused": True}),
    ):  # fmt: skip
        net = network(run)
        for weight in net.parameters():
            weight.grad = torch.ones_like(weight)
        variants[name] = torch.optim.Adam(net.parameters(), lr=1e-9, **options).step
    return timed(run, variants, 1 if run.tiny else 20)


def transfer(run: Run) -> dict[str, float]:
    """Return milliseconds of copy and step, in turn and overlapped."""
    inputs, labels = run.images()
    net = network(run)
    held = [inputs.cpu(), inputs.cpu()]
    step_of = trained(run, net, inputs, labels, run.cuda)

    def in_turn() -> None:
        inputs.copy_(held[0])
        step_of()

    variants = {"in turn": in_turn}
    if run.cuda:
        pinned = [one.pin_memory() for one in held]
        buffers = [torch.empty_like(inputs) for _ in pinned]
        side, state = torch.cuda.Stream(), {"k": 0}

        def overlapped() -> None:
            k = state["k"]
            torch.cuda.current_stream().wait_stream(side)
            with torch.cuda.stream(side):  # the next batch, while this one is trained on
                buffers[1 - k].copy_(pinned[1 - k], non_blocking=True)
            inputs.copy_(buffers[k])
            step_of()
            side.wait_stream(torch.cuda.current_stream())
            state["k"] = 1 - k

        variants["pinned double buffering"] = overlapped
    return timed(run, variants, 1 if run.tiny else 10)


def ours(run: Run) -> dict[str, float]:
    """Return milliseconds of a step of the large network by tl_lightning's loop."""
    import lightning

    from tl_lightning.config.compose import compose
    from tl_lightning.config.validation.check import check
    from tl_lightning.training.build import build_module
    from tl_lightning.training.trainer import make_trainer
    from tl_lightning.utils.process import quiet

    quiet()
    inputs, labels = (part.cpu() for part in run.images())
    inputs = inputs.mul(64).add(128).clamp(0, 255).to(torch.uint8)  # scaled by the model
    steps = 1 if run.tiny else 10
    found: list[float] = []

    class Clock(lightning.Callback):
        def on_train_epoch_start(self, *_: Any) -> None:
            run.wait()
            self.started = time.perf_counter()

        def on_train_epoch_end(self, *_: Any) -> None:
            run.wait()
            found.append(1000 * (time.perf_counter() - self.started) / steps)

    class Batches(torch.utils.data.Dataset):
        batch = {"inputs": inputs, "labels": labels, "index": torch.arange(len(labels))}  # noqa: RUF012

        def __len__(self) -> int:
            return steps

        def __getitem__(self, index: int) -> Any:
            return {"source": self.batch}

    name = "resnet18" if run.tiny else "resnet50"
    settings = [
        "model=fine_tuning", "data=dogs", "backbone=torchvision", f"backbone.name={name}",
        "backbone.pretrained=false", f"trainer={'gpu' if run.cuda else 'cpu'}",
    ]  # fmt: skip
    checked = check(compose(settings))
    module = build_module(checked, tuple(map(str, range(1000))))
    trainer = make_trainer(
        checked.trainer, max_epochs=run.turns + 1, logger=False, enable_checkpointing=False,
        callbacks=[Clock()], limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(Batches(), batch_size=None))
    return {"tl_lightning": median(found[1:])}


PARTS: dict[str, Callable[[Run], dict[str, float]]] = {
    "precision": precision, "ours": ours, "graphs": graphs, "optimizer": optimizer,
    "transfer": transfer, "memory": memory,
}  # fmt: skip


def measured(run: Run, names: Sequence[str]) -> Iterator[tuple[str, dict[str, float] | None]]:
    """Yield the figures of each part, or None where the time was over."""
    for name in names:
        late = time.perf_counter() - run.started > run.seconds
        yield name, None if late else PARTS[name](run)


def main(arguments: Sequence[str]) -> None:
    given = dict(item.partition("=")[::2] for item in arguments)
    names = given.pop("parts", ",".join(PARTS)).split(",")
    known = ("device", "tiny", "seconds")
    if unknown := sorted({*given} - {*known}) or [n for n in names if n not in PARTS]:
        sys.exit(f"{', '.join(unknown)}: valid are {', '.join(known)}, parts={','.join(PARTS)}")
    device = torch.device(given.get("device", "cuda"))
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("this machine has no GPU; set device=cpu tiny=true to try the script")
    run = Run(device, given.get("tiny") == "true", float(given.get("seconds", 300)))
    print("| part | variant | ms (memory: MiB) |\n|---|---|---:|")
    for name, found in measured(run, names):
        if found is None:
            print(f"| {name} | left out after {run.seconds:.0f} s | |")
        for variant, value in (found or {}).items():
            print(f"| {name} | {variant} | {value:.4g} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
