"""Export of trained models to files that other programs can run, and reading of such files."""

from tl_lightning.inference.export.exported import ExportedModel, load_exported

__all__ = ["ExportedModel", "load_exported"]
