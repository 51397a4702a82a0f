"""Loading, testing and predicting with a trained model."""
