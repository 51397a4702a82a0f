"""See ``python scripts/demo.py --help``."""

from tl_lightning.cli.demo import demo

if __name__ == "__main__":
    demo()
