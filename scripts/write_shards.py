"""See ``python scripts/write_shards.py --help``."""

from tl_lightning.cli.write_shards import write_shards

if __name__ == "__main__":
    write_shards()
