"""``python -m tl_lightning`` is ``tl-train``: how the launchers start the jobs of a sweep."""

from tl_lightning.cli import train

if __name__ == "__main__":
    train()
