"""See ``python scripts/accuracy_study.py --help``."""

from tl_lightning.cli.studies import accuracy_study

if __name__ == "__main__":
    accuracy_study()
