"""See ``python scripts/predict.py --help``."""

from tl_lightning.predicting import predict

if __name__ == "__main__":
    predict()
