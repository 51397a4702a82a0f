"""Calculation of the bottleneck (compute, decoding, storage or network) on 1 to 1,024 GPUs.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --set gpu_rate=800 --set parameters=86e6 --read decoded
    python benchmarks/scaling.py --strategy fsdp --gpus 8 64 --place shared

This is a calculation, not a measurement; its inputs and their sources are in
`benchmarks/scaling.yaml`. No GPU was timed: set the throughput of yours with
`--set gpu_rate=<images per second of one GPU>`.

A step of one GPU on a batch of size B takes B / rate. In a ring of n GPUs, each GPU sends
2 (n - 1) / n bytes for each byte of gradients (all-reduce, `ddp`), or 3 (n - 1) / n (weights
gathered twice, gradients scattered once, `fsdp`). The ring uses every link once, so the slowest
link is relevant: NVLink within a server, the network between servers. Communication is overlapped
with a fraction of the step. Latency, stragglers, evaluation, checkpoints and contention are not
included; real runs are slower. Reading and decoding are concurrent with the step, so the slowest of
the three determines the throughput.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

INPUTS = Path(__file__).with_suffix(".yaml")
#: Bytes sent per rank and byte of gradients, divided by (n - 1) / n.
PASSES = {"ddp": 2, "fsdp": 3}
PLACES = ("memory", "disk", "shared")
#: Inputs of each reader: (bytes per image, images per second and core).
READERS = {
    "pillow": ("file_bytes", "pillow_per_core"),
    "jpeg": ("file_bytes", "decoder_per_core"),
    "decoded": ("decoded_bytes", "cache_per_core"),
}


@dataclass(frozen=True)
class Plan:
    """Requirements and throughput for a number of GPUs.

    Attributes:
        gpus: Number of GPUs.
        sent: Bytes sent per GPU and step.
        exposed: Seconds per step spent waiting for communication.
        limits: Images per second of all GPUs for each possible bottleneck.
        needed: Images per second, bytes per second, and cores per GPU that keep the GPUs busy.
    """

    gpus: int
    sent: float
    exposed: float
    limits: dict[str, float]
    needed: dict[str, float]

    @property
    def binds(self) -> str:
        """Return the name of the bottleneck."""
        return min(self.limits, key=lambda name: self.limits[name])

    @property
    def rate(self) -> float:
        """Return the throughput in images per second."""
        return min(self.limits.values())


def ring_bytes(gpus: int, size: float, passes: int = 2) -> float:
    """Return the bytes sent per GPU in a ring reduction of ``size`` bytes."""
    return passes * (gpus - 1) / gpus * size


def plan(gpus: int, x: Mapping[str, float], read: str, place: str, strategy: str) -> Plan:
    """Return the requirements and throughput of ``gpus`` GPUs.

    Args:
        gpus: Number of GPUs.
        x: The inputs by name.
        read: A key of READERS.
        place: Location of the images: ``memory``, local ``disk`` of each server, or ``shared``.
        strategy: A key of PASSES.
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
    needed = {"images": compute, "bytes": compute * size, "cores": x["gpu_rate"] / core}
    return Plan(gpus, sent, exposed, limits, needed)


def inputs(changes: Sequence[str] = ()) -> dict[str, float]:
    """Return the inputs of the file by name, with ``name=value`` changes applied."""
    values = {
        name: float(entry["value"])
        for group in yaml.safe_load(INPUTS.read_text()).values()
        for name, entry in group.items()
    }
    for change in changes:
        name, _, value = change.partition("=")
        if name not in values:
            raise SystemExit(f"--set {change}: {name} must be one of {', '.join(sorted(values))}")
        values[name] = float(value)
    return values


def table(plans: Sequence[Plan]) -> str:
    """Return the plans as a Markdown table."""
    lines = [
        "| GPUs | images/s needed | GB/s to read | cores per GPU | MB sent per GPU and step "
        "| images/s reached | bottleneck |",
        "|---:|---:|---:|---:|---:|---:|---|",
    ]
    lines += [
        f"| {p.gpus:,} | {p.needed['images']:,.0f} | {p.needed['bytes'] / 1e9:.3g} "
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
    parser.add_argument(
        "--place", choices=PLACES, default="disk",
        help="location of the images: memory or disk of each server, or a shared file system",
    )  # fmt: skip
    parser.add_argument("--strategy", choices=PASSES, default="ddp")
    parser.add_argument("--set", action="append", default=[], help="name=value of scaling.yaml")
    args = parser.parse_args()
    x = inputs(args.set)
    print(table([plan(n, x, args.read, args.place, args.strategy) for n in args.gpus]))


if __name__ == "__main__":
    main()
