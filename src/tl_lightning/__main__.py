"""``python -m tl_lightning`` is ``tl-train``: how the launchers start the jobs of a sweep."""

from __future__ import annotations

from tl_lightning.cli.train import train

if __name__ == "__main__":
    train()
