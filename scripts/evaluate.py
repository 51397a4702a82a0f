"""See ``python scripts/evaluate.py --help``."""

from tl_lightning.cli import evaluate

if __name__ == "__main__":
    evaluate()
