"""See ``python scripts/extract_features.py --help``."""

from tl_lightning.cli.extract_features import extract

if __name__ == "__main__":
    extract()
