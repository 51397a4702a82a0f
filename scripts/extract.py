"""See ``python scripts/extract.py --help``."""

from tl_lightning.extracting import extract

if __name__ == "__main__":
    extract()
