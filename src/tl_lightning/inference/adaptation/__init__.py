"""Test-time adaptation: a trained model adapts to the samples that it predicts, without labels."""
