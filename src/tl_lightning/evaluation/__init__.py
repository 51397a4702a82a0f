"""Loading of trained models, testing and prediction."""
