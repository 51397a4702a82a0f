"""Decoded images, tokens and features on disk."""
