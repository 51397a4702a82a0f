"""See ``python scripts/adapt.py --help``."""

from tl_lightning.adapting import adapt

if __name__ == "__main__":
    adapt()
