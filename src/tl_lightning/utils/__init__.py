"""Helpers that know nothing of the project: files, text, processes, seeds, plots."""
