"""Composing, reading and instantiating a configuration; knows no part of the framework."""
