"""The report of a run and of a sweep: files, tables, figures, one HTML page."""
