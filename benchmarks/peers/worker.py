"""Process of one contestant: ``python -m benchmarks.peers.worker torch_loop dann 20 2``."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module

from benchmarks.peers.turns import Turns


def main() -> None:
    contestant, row, steps, threads = sys.argv[1:5]
    turns = Turns(int(steps))
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(int(threads))
    getattr(import_module(f"benchmarks.peers.contestants.{contestant}"), row)(turns, *sys.argv[5:])


if __name__ == "__main__":
    main()
