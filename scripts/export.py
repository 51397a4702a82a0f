"""See ``python scripts/export.py --help``."""

from tl_lightning.cli.export import export

if __name__ == "__main__":
    export()
