"""Checkpoint I/O, resuming and warm starts."""
