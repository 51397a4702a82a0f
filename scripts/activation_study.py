"""See ``python scripts/activation_study.py --help``."""

from tl_lightning.cli.studies import activation_study

if __name__ == "__main__":
    activation_study()
