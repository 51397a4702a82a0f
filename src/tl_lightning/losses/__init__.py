"""Losses and regularizers."""
