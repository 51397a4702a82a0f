"""Project-independent helpers for files, text, processes, seeds and plots."""
