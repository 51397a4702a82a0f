"""Backbones that map images, texts or vectors to features."""
