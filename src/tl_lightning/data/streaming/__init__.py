"""Streaming of sharded datasets that do not fit on disk."""
