"""Auxiliary tasks beside classification."""
