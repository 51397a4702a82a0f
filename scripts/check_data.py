"""See ``python scripts/check_data.py --help``."""

from tl_lightning.cli.check_data import check_data

if __name__ == "__main__":
    check_data()
