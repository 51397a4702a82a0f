"""Transfer learning and domain adaptation on Lightning and Hydra."""

__version__ = "0.1.0"
