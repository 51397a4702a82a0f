"""See ``python scripts/report.py --help``."""

from tl_lightning.cli.report import report

if __name__ == "__main__":
    report()
