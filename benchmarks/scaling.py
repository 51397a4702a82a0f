"""Which of compute, decoding, storage and network binds on 1, 8, 64 and 1,024 GPUs.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --set gpu_rate=800 --set parameters=86e6 --read decoded
    python benchmarks/scaling.py --strategy fsdp --gpus 8 64

Arithmetic, no measurement: its inputs and their sources stand in `benchmarks/scaling.yaml`.
No GPU was timed for it: give your own with `--set gpu_rate=<pictures a second of one GPU>`.

A GPU's step on a batch of B takes B / rate. What it sends for it, as a ring over n GPUs:
2 (n - 1) / n bytes for each byte of gradients (all-reduce, `ddp`), or 3 (n - 1) / n (weights
gathered twice, gradients scattered once, `fsdp`). One ring crosses every link once, so the slowest
link counts: NVLink within a server, the network between servers. A share of the step hides it. Not
in it: latency, stragglers, evaluation, checkpoints, contention; real runs are slower. Reading and
decoding run beside the step, so the slowest of the three sets the pace.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

INPUTS = Path(__file__).with_suffix(".yaml")
#: Bytes on the wire a rank, times (n - 1) / n, for each byte of gradients.
PASSES = {"ddp": 2, "fsdp": 3}
#: What is read: (bytes a picture, pictures a second of a core).
READERS = {
    "pillow": ("file_bytes", "pillow_per_core"),
    "jpeg": ("file_bytes", "decoder_per_core"),
    "decoded": ("decoded_bytes", "cache_per_core"),
}


@dataclass(frozen=True)
class Plan:
    """What a number of GPUs needs and reaches.

    Attributes:
        gpus: Number of GPUs.
        sent: Bytes that each sends a step.
        exposed: Seconds of a step that wait for them.
        limits: Pictures a second of all GPUs, by what would bind if nothing else did.
        needed: Pictures a second, bytes a second, and cores a GPU, to keep the GPUs busy.
    """

    gpus: int
    sent: float
    exposed: float
    limits: dict[str, float]
    needed: dict[str, float]

    @property
    def binds(self) -> str:
        """Return what binds."""
        return min(self.limits, key=lambda name: self.limits[name])

    @property
    def rate(self) -> float:
        """Return pictures a second."""
        return min(self.limits.values())


def ring_bytes(gpus: int, size: float, passes: int = 2) -> float:
    """Return the bytes that each of some GPUs sends to reduce ``size`` bytes."""
    return passes * (gpus - 1) / gpus * size


def plan(gpus: int, x: Mapping[str, float], read: str, place: str, strategy: str) -> Plan:
    """Return what ``gpus`` GPUs need and reach.

    Args:
        gpus: Number of GPUs.
        x: The inputs by name.
        read: One of READERS.
        place: Where pictures lie: ``memory``, ``disk`` of each server, or ``shared``.
        strategy: One of PASSES.
    """
    size, core = (x[name] for name in READERS[read])
    nodes = -(-gpus // int(x["gpus_per_node"]))
    step = x["batch_size"] / x["gpu_rate"]
    sent = ring_bytes(gpus, x["parameters"] * x["gradient_bytes"], PASSES[strategy])
    link = min(x["nvlink"], x["network"]) if nodes > 1 else x["nvlink"]
    exposed = max(0.0, sent / link - x["hidden"] * step)
    compute = gpus * x["gpu_rate"]
    limits = {
        "compute": compute,
        "gradients": gpus * x["batch_size"] / (step + exposed),
        "decoding": gpus * x["cores_per_gpu"] * core,
    }
    if exposed == 0:
        del limits["gradients"]
    if place == "disk":
        limits["storage"] = nodes * x["disk"] / size
    if place == "shared":
        limits["storage"] = min(x["shared"], nodes * x["network"]) / size
    needed = {"pictures": compute, "bytes": compute * size, "cores": x["gpu_rate"] / core}
    return Plan(gpus, sent, exposed, limits, needed)


def inputs(changes: Sequence[str] = ()) -> dict[str, float]:
    """Return the figures of the file by name, with ``name=value`` of the user's in their place."""
    found = {
        name: float(entry["value"])
        for group in yaml.safe_load(INPUTS.read_text()).values()
        for name, entry in group.items()
    }
    for change in changes:
        name, _, value = change.partition("=")
        if name not in found:
            raise SystemExit(f"--set {change}: {name} is none of {', '.join(sorted(found))}")
        found[name] = float(value)
    return found


def table(plans: Sequence[Plan]) -> str:
    """Return the plans as a table in Markdown."""
    lines = [
        "| GPUs | pictures/s needed | GB/s to read | cores a GPU | MB sent a GPU and step "
        "| pictures/s reached | what binds |",
        "|---:|---:|---:|---:|---:|---:|---|",
    ]
    lines += [
        f"| {p.gpus:,} | {p.needed['pictures']:,.0f} | {p.needed['bytes'] / 1e9:.3g} "
        f"| {p.needed['cores']:.1f} | {p.sent / 1e6:.0f} | {p.rate:,.0f} | {p.binds} |"
        for p in plans
    ]
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64, 1024])
    parser.add_argument("--read", choices=READERS, default="jpeg", help="files or decoded cache")

    parser.add_argument("--strategy", choices=PASSES, default="ddp")
    parser.add_argument("--set", action="append", default=[], help="name=value of scaling.yaml")
    given = parser.parse_args()
    x = inputs(given.set)
    print(table([plan(n, x, given.read, given.place, given.strategy) for n in given.gpus]))


if __name__ == "__main__":
    main()
