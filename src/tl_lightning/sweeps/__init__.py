"""Sweeps, baselines, launchers and hyperparameter search."""
