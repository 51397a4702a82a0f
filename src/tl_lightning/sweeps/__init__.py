"""Sweeps, baselines, launchers and tuning."""
