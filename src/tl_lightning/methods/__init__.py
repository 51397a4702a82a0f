"""Adaptation methods, one module per paper."""
