"""Starting the jobs of a sweep: local processes or SLURM."""
