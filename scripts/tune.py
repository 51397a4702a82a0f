"""See ``python scripts/tune.py --help``."""

from tl_lightning.tuning import tune

if __name__ == "__main__":
    tune()
