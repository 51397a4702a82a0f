"""Entry point of ``python -m tl_lightning``, the same as ``tl-train``; used by the launchers."""

from __future__ import annotations

from tl_lightning.cli.train import train

if __name__ == "__main__":
    train()
