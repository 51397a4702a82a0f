"""See ``python scripts/adapt.py --help``."""

from tl_lightning.cli.adapt import adapt

if __name__ == "__main__":
    adapt()
