"""Deterministic, resumable samplers."""
