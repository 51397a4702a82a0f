"""Heads, losses and metrics."""
