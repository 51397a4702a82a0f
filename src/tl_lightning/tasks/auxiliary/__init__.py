"""Auxiliary tasks trained in addition to the main classification task."""
