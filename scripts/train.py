"""See ``python scripts/train.py --help``."""

from tl_lightning.cli import train

if __name__ == "__main__":
    train()
