"""See ``python scripts/predict.py --help``."""

from tl_lightning.cli.predict import predict

if __name__ == "__main__":
    predict()
