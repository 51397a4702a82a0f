"""See ``python scripts/evaluate.py --help``."""

from tl_lightning.cli.evaluate import evaluate

if __name__ == "__main__":
    evaluate()
