"""LightningDataModules, one module per dataset."""
