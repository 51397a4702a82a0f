"""Launchers for sweep jobs: local processes and SLURM job arrays."""
