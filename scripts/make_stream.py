"""See ``python scripts/make_stream.py --help``."""

from tl_lightning.cli.write_shards import make_stream

if __name__ == "__main__":
    make_stream()
