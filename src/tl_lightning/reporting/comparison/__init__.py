"""Comparison of any runs with a baseline, as a page or a table."""
