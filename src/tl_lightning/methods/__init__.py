"""The adaptation methods, one paper a file."""
