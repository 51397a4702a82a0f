"""Reports of runs and sweeps: tables, figures and self-contained HTML pages."""
