"""Shards of data sets larger than a disk."""
