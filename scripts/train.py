"""See ``python scripts/train.py --help``."""

from tl_lightning.cli.train import train

if __name__ == "__main__":
    train()
