"""Scores that choose a model without target labels."""
