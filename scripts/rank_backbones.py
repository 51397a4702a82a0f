"""See ``python scripts/rank_backbones.py --help``."""

from tl_lightning.cli.rank_backbones import rank_backbones

if __name__ == "__main__":
    rank_backbones()
