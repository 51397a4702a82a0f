"""See ``python scripts/validator_study.py --help``."""

from tl_lightning.cli.studies import validator_study

if __name__ == "__main__":
    validator_study()
