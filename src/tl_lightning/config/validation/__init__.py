"""Validation of the configuration before any work starts."""
