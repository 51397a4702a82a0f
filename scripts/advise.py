"""See ``python scripts/advise.py --help``."""

from tl_lightning.cli.advise import advise

if __name__ == "__main__":
    advise()
