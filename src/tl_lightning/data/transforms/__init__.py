"""Augmentation and synthetic shift."""
