"""Use of a trained model: prediction, export, serving and sharing."""
