"""Ranks, strategies and sharded weights."""
