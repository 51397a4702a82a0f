"""Readers for images, texts, vectors and tables, and download helpers."""
