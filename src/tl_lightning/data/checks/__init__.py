"""Data checks before training: counts, unreadable files, duplicates and leakage."""
