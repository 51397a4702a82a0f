"""See ``python scripts/tune.py --help``."""

from tl_lightning.cli.tune import tune

if __name__ == "__main__":
    tune()
