"""Composition, validation and instantiation of the configuration."""
