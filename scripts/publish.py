"""See ``python scripts/publish.py --help``."""

from tl_lightning.cli.publish import publish

if __name__ == "__main__":
    publish()
