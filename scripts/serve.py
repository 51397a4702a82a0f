"""See ``python scripts/serve.py --help``."""

from tl_lightning.cli.serve import serve

if __name__ == "__main__":
    serve()
